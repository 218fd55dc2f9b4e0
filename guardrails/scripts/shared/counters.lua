-- Running sums in buckets; every script that counts begins with this text. The arithmetic of limits.py.
--
-- A counter is a few fields of a hash: NAMEs its sum, NAMEo and NAMEl bounds of its oldest and latest bucket,
-- NAMEb for each bucket number b that is not 0. A sum always equals its buckets, those that left the window
-- included until `drop_left` removes them. Changes are collected and written by `save`.

local READ_AT_ONCE = 400
local DROP_AT_ONCE = 100  -- where an exact sum is not needed: old buckets do not make one call long

local function clock(shift_s)
  local time = redis.call('TIME')
  return (tonumber(time[1]) + tonumber(shift_s)) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Milliseconds of a bucket in a window of so many seconds.
local function width_of(seconds)
  return seconds < 3600 and 1000 or seconds <= 172800 and 60000 or 900000
end

-- Returns a counter for a window in seconds; nil without one (0).
local function counter(name, window_s, now)
  local seconds = tonumber(window_s)
  if seconds <= 0 then return nil end
  local width = width_of(seconds)
  return {name = name, window = seconds * 1000, width = width, first = math.floor((now - seconds * 1000) / width)}
end

local function bucket_of(one, at) return math.floor(at / one.width) end

local function ends_at(one, bucket) return (bucket + 1) * one.width + one.window end

-- Reads one hash with its counters, the buckets of the time `at`, and two more fields.
local function open(key, counters, at, more, other)
  local names, n = {more or 'epoch', other or 'breaker'}, 2
  for _, one in ipairs(counters) do
    local name = one.name
    names[n + 1], names[n + 2], names[n + 3] = name .. 's', name .. 'o', name .. 'l'
    names[n + 4] = name .. bucket_of(one, at)
    n = n + 4
  end
  local found = redis.call('HMGET', key, unpack(names))
  n = 2
  for _, one in ipairs(counters) do
    one.sum, one.oldest, one.latest = tonumber(found[n + 1] or 0), tonumber(found[n + 2]), tonumber(found[n + 3])
    one.buckets = {[bucket_of(one, at)] = tonumber(found[n + 4] or 0)}
    n = n + 4
  end
  return {key = key, counters = counters, writes = {}, changed = false, more = found[1], other = found[2]}
end

-- Calls visit(bucket, amount) for the buckets from one to another, in either direction, until it returns true.
local function walk(hash, one, from, to, visit)
  local step = from <= to and 1 or -1
  local at = from
  while (to - at) * step >= 0 do
    local last = at + step * (READ_AT_ONCE - 1)
    if (to - last) * step < 0 then last = to end
    local names = {}
    for bucket = at, last, step do names[#names + 1] = one.name .. bucket end
    local found = redis.call('HMGET', hash.key, unpack(names))
    for i = 1, #names do
      local bucket = at + (i - 1) * step
      local amount = one.buckets[bucket] or tonumber(found[i] or 0)
      if amount ~= 0 and visit(bucket, amount) then return end
    end
    at = last + step
  end
end

local function amount_in(hash, one, bucket)
  if not one.buckets[bucket] then
    one.buckets[bucket] = tonumber(redis.call('HGET', hash.key, one.name .. bucket) or 0)
  end
  return one.buckets[bucket]
end

local function put(hash, one, bucket, amount)
  one.buckets[bucket] = amount
  hash.writes[one.name .. bucket] = amount
  one.changed, hash.changed = true, true
end

-- Removes the buckets that left the window, or the oldest `most` of them: the sum is exact without `most`.
-- Reads nothing while the oldest one is inside.
local function drop_left(hash, one, most)
  if not one.oldest or one.oldest >= one.first then return end
  local oldest, dropped = nil, 0
  walk(hash, one, one.oldest, one.latest, function(bucket, amount)
    if bucket >= one.first or dropped == most then
      oldest = bucket
      return true
    end
    dropped = dropped + 1
    one.sum = one.sum - amount
    put(hash, one, bucket, 0)
  end)
  one.oldest, one.changed, hash.changed = oldest, true, true
  if not oldest then one.sum, one.latest = 0, nil end
end

local function add(hash, one, at, amount)
  local bucket = bucket_of(one, at)
  if amount == 0 or bucket < one.first then return end
  put(hash, one, bucket, amount_in(hash, one, bucket) + amount)
  one.sum = one.sum + amount
  one.oldest = math.min(one.oldest or bucket, bucket)
  one.latest = math.max(one.latest or bucket, bucket)
end

-- Takes back what was added; less if the bucket holds less, because counters may have been lost.
local function take_back(hash, one, at, amount)
  local bucket = bucket_of(one, at)
  local held = amount_in(hash, one, bucket)
  local less = math.min(held, amount)
  if less == 0 then return end
  put(hash, one, bucket, held - less)
  one.sum = one.sum - less
  if held > less or bucket ~= one.latest then return end
  one.latest = nil
  if bucket > one.oldest then
    walk(hash, one, bucket - 1, one.oldest, function(before)
      one.latest = before
      return true
    end)
  end
  if not one.latest then one.oldest = nil end
end

local function save(hash)
  if not hash.changed then return end
  local set, drop = {}, {}
  for field, amount in pairs(hash.writes) do
    if amount == 0 then drop[#drop + 1] = field
    else set[#set + 1], set[#set + 2] = field, amount end
  end
  for _, one in ipairs(hash.counters) do
    if one.changed and one.oldest then
      local n, name = #set, one.name
      set[n + 1], set[n + 2], set[n + 3], set[n + 4] = name .. 's', one.sum, name .. 'o', one.oldest
      set[n + 5], set[n + 6] = name .. 'l', one.latest
    elseif one.changed then
      for _, field in ipairs({'s', 'o', 'l'}) do drop[#drop + 1] = one.name .. field end
    end
  end
  if #set > 0 then redis.call('HSET', hash.key, unpack(set)) end
  for i = 1, #drop, READ_AT_ONCE do
    redis.call('HDEL', hash.key, unpack(drop, i, math.min(i + READ_AT_ONCE - 1, #drop)))
  end
end

-- The counters of one user, and those of everyone, for the windows (seconds; 0: none) of a declaration.
local function user_counters(quota_s, cooldown_s, budget_s, now)
  local made, takes, starts, money = {}, counter('t', quota_s, now), counter('c', cooldown_s, now),
    counter('m', budget_s, now)
  if takes then made[#made + 1] = takes end
  if starts then made[#made + 1] = starts end
  if money then made[#made + 1] = money end
  made.takes, made.starts, made.money = takes, starts, money
  return made
end

local function all_counters(budget_s, now)
  local money = counter('m', budget_s, now)
  return {money, money = money}
end

-- Adds (change = add) or takes back (change = take_back) one order.
local function apply(change, user, everyone, at, micros, counts, cools)
  local mine, all = user.counters, everyone.counters
  if counts and mine.takes then change(user, mine.takes, at, 1) end
  if not cools then return end
  if mine.starts then change(user, mine.starts, at, 1) end
  if mine.money then change(user, mine.money, at, micros) end
  if all.money then change(everyone, all.money, at, micros) end
end

-- The same without tables, for the usual case: nothing has left, nothing is taken back.

local function first_of(seconds, now) return math.floor((now - seconds * 1000) / width_of(seconds)) end

local function has_left(seconds, oldest, now)
  return seconds > 0 and oldest and tonumber(oldest) < first_of(seconds, now)
end

-- Adds to `set`, the arguments of a HSET, what one amount at a time changes: sum, bounds and bucket.
local function push(key, set, name, seconds, at, sum, oldest, latest, amount)
  if seconds == 0 or amount == 0 then return end
  local bucket = math.floor(at / width_of(seconds))
  local field, n, held = name .. bucket, #set, 0
  latest = tonumber(latest or 0)
  if latest >= bucket then held = tonumber(redis.call('HGET', key, field) or 0) end
  set[n + 1], set[n + 2], set[n + 3], set[n + 4] = name .. 's', tonumber(sum or 0) + amount, field, held + amount
  n = n + 4
  if not oldest or tonumber(oldest) > bucket then
    set[n + 1], set[n + 2] = name .. 'o', bucket
    n = n + 2
  end
  if latest < bucket then set[n + 1], set[n + 2] = name .. 'l', bucket end
end
