-- Brings the counters to what the ledger says of a page of orders, and moves the leader's position.
--
-- An order is applied only if its version is newer than the one in `seen`, as the difference from what `seen`
-- says was added. So a page may come twice, late, or while calls are admitted, and never undoes a release.
--
-- KEYS[1]    everyone
-- KEYS[2]    pending
-- KEYS[3]    lock      string: the leader's token
-- KEYS[4...] for each order: seen; then for each user: user
-- ARGV[1]  mode      "page"; "finish": the counters are complete, and the lock is released; "unlock"
-- ARGV[2]  token     of the leader
-- ARGV[3]  lock_ms   for which the lock is renewed
-- ARGV[4]  before    position that the leader read; another one means that the store went back in time
-- ARGV[5]  after     position after this page
-- ARGV[6]  shift_s   added to the server's clock; 0 except in tests
-- ARGV[7]  quota_s   windows in seconds, 0: no such limit
-- ARGV[8]  cooldown_s
-- ARGV[9]  user_window_s
-- ARGV[10] all_window_s
-- ARGV[11] keep_s    lifetime of the keys
-- ARGV[12] epoch_s   lifetime of complete counters
-- ARGV[13] orders    JSON [[member, user, at, micros, counts, cools, version], …]; `user` counts from 1
-- Returns  1 if done, 0 if the lock or the position was lost

if redis.call('GET', KEYS[3]) ~= ARGV[2] then return 0 end
if ARGV[1] == 'unlock' then return redis.call('DEL', KEYS[3]) end
if (redis.call('HGET', KEYS[1], 'position') or '') ~= ARGV[4] then return 0 end

local now, keep = clock(ARGV[6]), tonumber(ARGV[11])
local orders = cjson.decode(ARGV[13])
local everyone = open(KEYS[1], all_counters(ARGV[10], now), now)
if everyone.counters.money then drop_left(everyone, everyone.counters.money, DROP_AT_ONCE) end
local users, known = {}, {}

local function user_of(index, at)
  if not users[index] then
    local hash = open(KEYS[3 + #orders + index], user_counters(ARGV[7], ARGV[8], ARGV[9], now), at)
    for _, one in ipairs(hash.counters) do drop_left(hash, one, DROP_AT_ONCE) end
    users[index] = hash
  end
  return users[index]
end

local quota_s, cooldown_s, user_s = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])

local function is_inside(seconds, at) return math.floor(at / width_of(seconds)) >= first_of(seconds, now) end

-- Adds a new order to its user at once, if nothing else of the user is to change; returns whether it did.
local function add_to_user(index, at, micros)
  local key = KEYS[3 + #orders + index]
  local user = redis.call('HMGET', key, 'ts', 'to', 'tl', 'cs', 'co', 'cl', 'ms', 'mo', 'ml')
  if has_left(quota_s, user[2], now) or has_left(cooldown_s, user[5], now) or has_left(user_s, user[8], now) then
    return false
  end
  local set = {}
  if is_inside(quota_s, at) then push(key, set, 't', quota_s, at, user[1], user[2], user[3], 1) end
  if is_inside(cooldown_s, at) then push(key, set, 'c', cooldown_s, at, user[4], user[5], user[6], 1) end
  if is_inside(user_s, at) then push(key, set, 'm', user_s, at, user[7], user[8], user[9], micros) end
  if #set > 0 then
    redis.call('HSET', key, unpack(set))
    redis.call('EXPIRE', key, keep)
  end
  return true
end

for i, order in ipairs(orders) do
  local seen = KEYS[3 + i]
  local at, micros, version = order[3], order[4], order[7]
  local held = redis.call('HMGET', seen, 'version', 'at', 'micros', 'takes', 'starts')
  -- A tap that is counted here and not written there yet stays pending: its process may have died.
  local tapped = held[2] and held[5] ~= '0' and order[5] + order[6] == 0 and version == tonumber(held[1] or -1)
  if not tapped then known[#known + 1] = order[1] end
  if version > tonumber(held[1] or -1) then
    local whole = order[5] == 1 and order[6] == 1 and not held[2] and not users[order[2]]
    if whole and add_to_user(order[2], at, micros) then
      if everyone.counters.money then add(everyone, everyone.counters.money, at, micros) end
    else
      local user = user_of(order[2], at)
      if held[2] then
        apply(take_back, user, everyone, tonumber(held[2]), tonumber(held[3]), held[4] ~= '0', held[5] ~= '0')
      end
      apply(add, user, everyone, at, micros, order[5] == 1, order[6] == 1)
    end
    -- The order exists, so no call of any attempt may pass again: its attempt is the highest of all.
    redis.call('HSET', seen, 'attempt', '9007199254740991', 'call', '', 'version', version, 'at', at,
      'micros', micros, 'takes', order[5], 'starts', order[6])
    redis.call('EXPIRE', seen, math.max(60, keep - math.floor((now - at) / 1000)))
  end
end
for _, user in pairs(users) do
  if user.changed then
    save(user)
    redis.call('EXPIRE', user.key, keep)
  end
end
save(everyone)
if #known > 0 then redis.call('ZREM', KEYS[2], unpack(known)) end
redis.call('HSET', KEYS[1], 'position', ARGV[5])
if ARGV[1] == 'finish' then
  redis.call('HSET', KEYS[1], 'epoch', now + tonumber(ARGV[12]) * 1000, 'synced', now)
  redis.call('DEL', KEYS[3])
else
  redis.call('PEXPIRE', KEYS[3], ARGV[3])
end
redis.call('EXPIRE', KEYS[1], keep)
return 1
