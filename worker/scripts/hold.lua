-- Grants nothing of a limit for a time. If another limit was held shortly before, the wider one is held too.
--
-- KEYS[1] arrival   of the limit, as in take.lua
-- KEYS[2] wider     arrival of the limit that covers it and others
-- KEYS[3] last      the key of the limit that was held last
-- ARGV[1] ahead     microseconds from now to the arrival to write for the limit
-- ARGV[2] further   the same for the wider one
-- ARGV[3] shortly   how long the last one is remembered, in milliseconds
-- Returns 1 if the wider limit was held, else 0

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function hold(key, ahead)
  local arrival = math.max(now + ahead, tonumber(redis.call('GET', key) or 0))
  redis.call('SET', key, string.format('%.0f', arrival), 'PX', math.ceil((arrival - now) / 1000))
end

hold(KEYS[1], ARGV[1])
local last = redis.call('GET', KEYS[3])
redis.call('SET', KEYS[3], KEYS[1], 'PX', ARGV[3])
local several = last and last ~= KEYS[1]
if several then hold(KEYS[2], ARGV[2]) end
return several and 1 or 0
