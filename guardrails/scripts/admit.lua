-- Admits or refuses one tool call: seen-set, breakers, cooldown, quota and budgets in one atomic step.
-- Running sums are read, never orders: see shared/counters.lua. A property test compares it with the ledger.
--
-- KEYS[1]  everyone  hash epoch (ms until which the counters are complete), breaker (ms until which it is open),
--                    sums of all users
-- KEYS[2]  seen      hash attempt, call; at, micros, takes, starts: what this request added (1 if absent);
--                    version of its order, absent while none is known; refused: see refuse.lua.
--                    An order that counts has starts 1; above the quota its takes are 0
-- KEYS[3]  user      hash breaker, sums of this user
-- KEYS[4]  pending   zset user:request -> ms, reservations without a known order
-- ARGV[1]  mode           "check" writes nothing; "reserve" counts the call; "offer" holds the request and counts
--                         nothing; "confirm" counts the order of an offer, once
-- ARGV[2]  member         user:request
-- ARGV[3]  attempt        integer; a later attempt takes a reservation over
-- ARGV[4]  call_id        the same call of the same attempt is admitted again
-- ARGV[5]  price          micro-dollars
-- ARGV[6]  shift_s        added to the server's clock; 0 except in tests
-- ARGV[7]  quota          orders in its window, -1: no quota
-- ARGV[8]  user_budget    micro-dollars, -1: no budget
-- ARGV[9]  all_budget     micro-dollars, -1: no budget
-- ARGV[10] quota_s        windows in seconds, 0: no such limit
-- ARGV[11] cooldown_s
-- ARGV[12] user_window_s
-- ARGV[13] all_window_s
-- ARGV[14] keep_s         lifetime of the keys: the longest window and a margin
-- ARGV[15] version        of the offer that "confirm" counts; a newer state of its order is left as it is
-- ARGV[16] extra          orders above the quota that the user may make; such an order does not count toward it
-- Returns  {verdict, until_ms (0: unknown), used, limit, why, now_ms}; the words of AdmissionVerdict

local now = clock(ARGV[6])
local attempt, price = tonumber(ARGV[3]), tonumber(ARGV[5])
local LAST_ATTEMPT = '9007199254740991'  -- an order exists: no call of any attempt may pass again
local mode = ARGV[1]
local confirms, counts = mode == 'confirm', mode == 'reserve' or mode == 'confirm'

local everyone = redis.call('HMGET', KEYS[1], 'epoch', 'breaker', 'ms', 'mo', 'ml')
if tonumber(everyone[1] or 0) <= now then return {'closed', 0, 0, 0, 'epoch', now} end

local seen = redis.call('HMGET', KEYS[2], 'attempt', 'call', 'refused', 'version', 'starts', 'at')
if confirms then
  -- What came after the offer is counted as the ledger says; what was confirmed before is counted already.
  if tonumber(seen[4] or -1) > tonumber(ARGV[15]) then return {'replay', 0, 0, 0, 'newer', now} end
  if seen[6] and seen[5] ~= '0' then return {'admitted', 0, 0, 0, 'confirmed', now} end
elseif seen[1] then
  if tonumber(seen[1]) == attempt and seen[2] == ARGV[4] then return {'admitted', 0, 0, 0, 'same call', now} end
  if tonumber(seen[1]) >= attempt then return {'replay', 0, 0, 0, '', now} end
end
if seen[3] then return {'content', 0, 0, 0, seen[3], now} end

local user = redis.call('HMGET', KEYS[3], 'breaker', 'ts', 'to', 'tl', 'co', 'cl', 'ms', 'mo', 'ml', 'cs')

local above_quota = false

local function mark(at)
  local added = counts and 1 or 0
  redis.call('HSET', KEYS[2], 'attempt', confirms and LAST_ATTEMPT or attempt, 'call', ARGV[4], 'at', at,
    'micros', price, 'takes', above_quota and 0 or added, 'starts', added)
  if confirms then redis.call('HSET', KEYS[2], 'version', ARGV[15]) end
  redis.call('ZADD', KEYS[4], now, ARGV[2])
  for i = 2, 4 do redis.call('EXPIRE', KEYS[i], ARGV[14]) end  -- the leader of a refresh keeps the first one
end

-- The usual case, without tables. A sum that fits with buckets that left its window fits without them.

local quota, user_budget, all_budget = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local quota_s, cooldown_s, user_s, all_s = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]),
  tonumber(ARGV[13])

local function fits(limit, sum, more) return limit < 0 or tonumber(sum or 0) + more <= limit end

local function cools(latest) return cooldown_s > 0 and latest and tonumber(latest) >= first_of(cooldown_s, now) end

local function is_simple()
  if seen[1] and not confirms or tonumber(everyone[2] or 0) > now or tonumber(user[1] or 0) > now or cools(user[6])
    or not fits(quota, user[2], 1) or not fits(user_budget, user[7], price)
    or not fits(all_budget, everyone[3], price) then return false end
  return not counts or not (has_left(quota_s, user[3], now) or has_left(cooldown_s, user[5], now)
    or has_left(user_s, user[8], now) or has_left(all_s, everyone[4], now))
end

if is_simple() then
  if counts then
    local set = {}
    push(KEYS[3], set, 't', quota_s, now, user[2], user[3], user[4], 1)
    push(KEYS[3], set, 'c', cooldown_s, now, user[10], user[5], user[6], 1)
    push(KEYS[3], set, 'm', user_s, now, user[7], user[8], user[9], price)
    if #set > 0 then redis.call('HSET', KEYS[3], unpack(set)) end
    set = {}
    push(KEYS[1], set, 'm', all_s, now, everyone[3], everyone[4], everyone[5], price)
    if #set > 0 then redis.call('HSET', KEYS[1], unpack(set)) end
  end
  if mode ~= 'check' then mark(now) end
  return {'admitted', 0, 0, 0, '', now}
end

-- Everything else: a refusal with its time, a takeover, buckets to remove.

everyone = open(KEYS[1], all_counters(all_s, now), now)
user = open(KEYS[3], user_counters(quota_s, cooldown_s, user_s, now), now)
local mine, all = user.counters, everyone.counters

local function over(hash, one, limit, more, word)
  if not one or limit < 0 or one.sum + more <= limit then return nil end
  drop_left(hash, one)
  if one.sum + more <= limit then return nil end
  local surplus, ends = one.sum + more - limit, 0
  if one.oldest then
    walk(hash, one, one.oldest, one.latest, function(bucket, amount)
      surplus = surplus - amount
      if surplus <= 0 then
        ends = ends_at(one, bucket)
        return true
      end
    end)
  end
  return {word, ends, one.sum, limit, ''}
end

local function check_limits()
  if tonumber(everyone.other or 0) > now then return {'breaker', 0, 0, 0, 'everyone'} end
  if tonumber(user.other or 0) > now then return {'breaker', 0, 0, 0, 'user'} end
  local starts = mine.starts
  if starts and starts.latest and starts.latest >= starts.first then
    return {'cooldown', ends_at(starts, starts.latest), 0, 0, ''}
  end
  local full = over(user, mine.takes, quota, 1, 'quota')
  above_quota = full ~= nil and tonumber(ARGV[16]) > 0
  if full and not above_quota then return full end
  return over(user, mine.money, user_budget, price, 'budget')
    or over(everyone, all.money, all_budget, price, 'budget')
end

-- A takeover is judged as if its request had not reserved; its first time is kept. An offer counts from its tap.
local at, held = now, redis.call('HMGET', KEYS[2], 'at', 'micros', 'takes', 'starts')
if held[1] and not confirms then
  at = tonumber(held[1])
  apply(take_back, user, everyone, at, tonumber(held[2]), held[3] ~= '0', held[4] ~= '0')
end

local verdict = check_limits()
if verdict or mode == 'check' then
  if not held[1] then  -- only what left the windows changed
    save(user)
    save(everyone)
  end
  verdict = verdict or {'admitted', 0, 0, 0, ''}
  verdict[6] = now
  return verdict
end

for _, one in ipairs(mine) do drop_left(user, one, DROP_AT_ONCE) end
if all.money then drop_left(everyone, all.money, DROP_AT_ONCE) end
if counts then apply(add, user, everyone, at, price, not above_quota, true) end
save(user)
save(everyone)
mark(at)
return {'admitted', 0, 0, 0, '', now}
