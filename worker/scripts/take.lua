-- Takes up to `most` units of several limits in one step, or none of any. The clock is this server's.
--
-- Each limit is one number (GCRA): the arrival time, in microseconds since the epoch, from which on its whole
-- burst is free again. A unit moves it by the limit's interval. An absent key is an arrival time in the past.
--
-- KEYS[1...] arrival   of each limit
-- ARGV[1]    most      units that are wanted, at least 1
-- ARGV[2...] limits    for each limit its interval in microseconds, its burst, and the units to keep free
-- Returns {units taken, microseconds until one unit is free, index of the limit to wait for or 0}

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local taken, wait, slowest = tonumber(ARGV[1]), 0, 0
local every, arrival = {}, {}
for i, key in ipairs(KEYS) do
  every[i] = tonumber(ARGV[3 * i - 1])
  arrival[i] = math.max(now, tonumber(redis.call('GET', key) or 0))
  local free = now + (ARGV[3 * i] - ARGV[3 * i + 1]) * every[i] - arrival[i]
  taken = math.min(taken, math.floor(free / every[i]))
  if every[i] - free > wait then wait, slowest = every[i] - free, i end
end
if taken < 1 then return {0, wait, slowest} end
for i, key in ipairs(KEYS) do
  local after = arrival[i] + taken * every[i]
  redis.call('SET', key, string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000))
end
return {taken, 0, 0}
