-- Admits or refuses one tool call: seen-set, breakers, cooldown, quota and budgets in one atomic step.
-- The same arithmetic as limits.py; a property test compares this script with the recount in SQL.
--
-- KEYS[1]  epoch        string, absent: the counters are not complete
-- KEYS[2]  seen         hash attempt, call
-- KEYS[3]  takes        zset request -> ms, orders that count toward the quota
-- KEYS[4]  starts       zset request -> ms, orders that count toward cooldown and the user's budget
-- KEYS[5]  money        hash request -> micro-dollars
-- KEYS[6]  all_starts   zset request -> ms, as starts, for all users
-- KEYS[7]  all_money    hash request -> micro-dollars, for all users
-- KEYS[8]  breaker_user string, present: open
-- KEYS[9]  breaker_all  string, present: open
-- ARGV[1]  mode             "check" writes nothing, "reserve" reserves
-- ARGV[2]  request_id
-- ARGV[3]  attempt          integer; a later attempt takes a reservation over
-- ARGV[4]  call_id          the same call of the same attempt is admitted again
-- ARGV[5]  price            micro-dollars
-- ARGV[6]  shift_s          added to the server's clock; 0 except in tests
-- ARGV[7]  quota            orders in its window, -1: no quota
-- ARGV[8]  quota_window_s
-- ARGV[9]  cooldown_s       -1: no cooldown
-- ARGV[10] user_budget      micro-dollars, -1: no budget
-- ARGV[11] user_window_s
-- ARGV[12] all_budget       micro-dollars, -1: no budget
-- ARGV[13] all_window_s
-- ARGV[14] keep_s           lifetime of a member: the longest window and a margin
-- Returns  {verdict, until_ms (0: unknown), used, limit, why, now_ms}; the words of AdmissionVerdict

local time = redis.call('TIME')
local now = (tonumber(time[1]) + tonumber(ARGV[6])) * 1000 + math.floor(tonumber(time[2]) / 1000)
local request, attempt, price = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
local keep = tonumber(ARGV[14])

local function inside(key, window_s)
  return redis.call('ZRANGEBYSCORE', key, string.format('(%d', now - window_s * 1000), '+inf', 'WITHSCORES')
end

-- Refuses if the price and the other requests inside the window are together above the limit.
local function over_budget(starts, money, limit, window_s)
  local members, used = inside(starts, window_s), 0
  local amounts = {}
  for i = 1, #members, 2 do
    if members[i] ~= request then
      local micros = tonumber(redis.call('HGET', money, members[i]) or '0')
      amounts[#amounts + 1] = {micros, tonumber(members[i + 1])}
      used = used + micros
    end
  end
  if used + price <= limit then return nil end
  local left = used
  for _, one in ipairs(amounts) do
    left = left - one[1]
    if left + price <= limit then return {'budget', one[2] + window_s * 1000, used, limit, ''} end
  end
  return {'budget', 0, used, limit, ''}
end

local function check_limits()
  if redis.call('EXISTS', KEYS[9]) == 1 then return {'breaker', 0, 0, 0, 'everyone'} end
  if redis.call('EXISTS', KEYS[8]) == 1 then return {'breaker', 0, 0, 0, 'user'} end

  local cooldown = tonumber(ARGV[9])
  if cooldown >= 0 then
    local last = inside(KEYS[4], cooldown)
    for i = #last - 1, 1, -2 do
      if last[i] ~= request then
        return {'cooldown', tonumber(last[i + 1]) + cooldown * 1000, 0, 0, ''}
      end
    end
  end

  local quota, window = tonumber(ARGV[7]), tonumber(ARGV[8])
  if quota >= 0 then
    local members, ats = inside(KEYS[3], window), {}
    for i = 1, #members, 2 do
      if members[i] ~= request then ats[#ats + 1] = tonumber(members[i + 1]) end
    end
    if #ats >= quota then
      local frees = ats[#ats - quota + 1]  -- nil if the quota is 0: never free
      return {'quota', frees and frees + window * 1000 or 0, #ats, quota, ''}
    end
  end

  local verdict
  if tonumber(ARGV[10]) >= 0 then
    verdict = over_budget(KEYS[4], KEYS[5], tonumber(ARGV[10]), tonumber(ARGV[11]))
  end
  if not verdict and tonumber(ARGV[12]) >= 0 then
    verdict = over_budget(KEYS[6], KEYS[7], tonumber(ARGV[12]), tonumber(ARGV[13]))
  end
  return verdict
end

local function drop_old(starts, money)
  local old = redis.call('ZRANGEBYSCORE', starts, '-inf', now - keep * 1000)
  for _, member in ipairs(old) do
    redis.call('ZREM', starts, member)
    redis.call('HDEL', money, member)
  end
end

local function reserve()
  redis.call('HSET', KEYS[2], 'attempt', attempt, 'call', ARGV[4])
  redis.call('ZADD', KEYS[3], 'NX', now, request)
  redis.call('ZADD', KEYS[4], 'NX', now, request)
  redis.call('HSET', KEYS[5], request, price)
  redis.call('ZADD', KEYS[6], 'NX', now, request)
  redis.call('HSET', KEYS[7], request, price)
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - keep * 1000)
  drop_old(KEYS[4], KEYS[5])
  drop_old(KEYS[6], KEYS[7])
  for i = 2, 7 do redis.call('EXPIRE', KEYS[i], keep) end
end

if redis.call('EXISTS', KEYS[1]) == 0 then return {'closed', 0, 0, 0, 'epoch', now} end

local held = redis.call('HMGET', KEYS[2], 'attempt', 'call')
if held[1] then
  if tonumber(held[1]) == attempt and held[2] == ARGV[4] then return {'admitted', 0, 0, 0, 'same call', now} end
  if tonumber(held[1]) >= attempt then return {'replay', 0, 0, 0, '', now} end
end

local verdict = check_limits()
if verdict then
  verdict[6] = now
  return verdict
end
if ARGV[1] == 'reserve' then reserve() end
return {'admitted', 0, 0, 0, '', now}
