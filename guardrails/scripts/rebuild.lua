-- Makes the counters agree with the ledger.
--
-- Mode "rebuild" fills an emptied Redis and does nothing if the epoch exists, so that several replicas may
-- rebuild at once. Mode "refresh" corrects complete counters and does nothing if the epoch is missing.
--
-- KEYS[1]    epoch
-- KEYS[2]    all_starts
-- KEYS[3]    all_money
-- KEYS[4]    breaker_all
-- KEYS[5...] for each user: takes, starts, money, breaker_user; then for each member: seen
-- ARGV[1] mode      "rebuild" | "refresh"
-- ARGV[2] epoch_id  any unique string
-- ARGV[3] epoch_s   lifetime of the epoch and of an open breaker
-- ARGV[4] keep_s    lifetime of a member: the longest window and a margin
-- ARGV[5] shift_s   added to the server's clock; 0 except in tests
-- ARGV[6] grace_s   a reservation without an order in the ledger is dropped when it is older than this
-- ARGV[7] facts     JSON {all_open, users: [{open}], members: [{id, user, at, micros, counts, cools}]}
-- Returns 1 if done, 0 if this mode does not apply

local rebuild = ARGV[1] == 'rebuild'
local complete = redis.call('EXISTS', KEYS[1]) == 1
if rebuild == complete then return 0 end

local time = redis.call('TIME')
local now = (tonumber(time[1]) + tonumber(ARGV[5])) * 1000 + math.floor(tonumber(time[2]) / 1000)
local epoch_s, keep, stale = tonumber(ARGV[3]), tonumber(ARGV[4]), now - tonumber(ARGV[6]) * 1000
local facts = cjson.decode(ARGV[7])
local users, members = facts.users, facts.members
local by_user, everyone = {}, {starts = {}}
for i = 1, #users do by_user[i] = {takes = {}, starts = {}} end
local in_ledger = {}

local function user_key(i, n) return KEYS[4 + (i - 1) * 4 + n] end

for i, one in ipairs(members) do
  local mine = by_user[one.user]
  in_ledger[one.id] = true
  if one.counts then mine.takes[one.id] = one end
  if one.cools then mine.starts[one.id], everyone.starts[one.id] = one, one end
  local seen = KEYS[4 + #users * 4 + i]
  -- The order exists, so no call of any attempt may pass again: its attempt is the highest of all.
  redis.call('HSET', seen, 'attempt', '9007199254740991', 'call', '')
  redis.call('EXPIRE', seen, keep)
end

-- Removes members that the ledger does not count, except fresh reservations; adds and updates the others.
local function sync(zset, hash, known)
  local held = redis.call('ZRANGE', zset, 0, -1, 'WITHSCORES')
  for i = 1, #held, 2 do
    if not known[held[i]] and (in_ledger[held[i]] or tonumber(held[i + 1]) <= stale) then
      redis.call('ZREM', zset, held[i])
      if hash then redis.call('HDEL', hash, held[i]) end
    end
  end
  for id, one in pairs(known) do
    redis.call('ZADD', zset, one.at, id)
    if hash then redis.call('HSET', hash, id, one.micros) end
  end
  redis.call('EXPIRE', zset, keep)
  if hash then redis.call('EXPIRE', hash, keep) end
end

local function set_breaker(key, open)
  if open then redis.call('SET', key, '1', 'EX', epoch_s) else redis.call('DEL', key) end
end

for i, mine in ipairs(by_user) do
  sync(user_key(i, 1), nil, mine.takes)
  sync(user_key(i, 2), user_key(i, 3), mine.starts)
  set_breaker(user_key(i, 4), users[i].open)
end
sync(KEYS[2], KEYS[3], everyone.starts)
set_breaker(KEYS[4], facts.all_open)
redis.call('SET', KEYS[1], ARGV[2], 'EX', epoch_s)
return 1
