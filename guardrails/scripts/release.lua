-- Gives back what one request holds. Idempotent: it takes back what `seen` says was added, and notes that.
--
-- KEYS[1]  everyone
-- KEYS[2]  seen
-- KEYS[3]  user
-- KEYS[4]  pending
-- ARGV[1]  what        "quota": charged and failed; "unpaid": proof of no charge; "all": there is no order;
--                      "offer": the tap of an offer was refused, the offer of this version stays
-- ARGV[2]  member      user:request
-- ARGV[3]  version     of the order after the change that releases; -1: unknown
-- ARGV[4]  stale_ms    only if the reservation is not younger; -1: at any age
-- ARGV[5]  shift_s     added to the server's clock; 0 except in tests
-- ARGV[6]  quota_s     windows in seconds, 0: no such limit
-- ARGV[7]  cooldown_s
-- ARGV[8]  user_window_s
-- ARGV[9]  all_window_s
-- ARGV[10] keep_s      lifetime of the keys
-- Returns  1 if something was given back, else 0

local LAST_ATTEMPT = '9007199254740991'  -- an order exists: no call of any attempt may pass again
local now = clock(ARGV[5])
local version, stale = tonumber(ARGV[3]), tonumber(ARGV[4])
local held = redis.call('HMGET', KEYS[2], 'version', 'at', 'micros', 'takes', 'starts', 'refused')
local known = tonumber(held[1] or -1)
local reopens = ARGV[1] == 'offer'

if stale >= 0 and tonumber(redis.call('ZSCORE', KEYS[4], ARGV[2]) or 0) > stale then return 0 end
if not held[2] then
  redis.call('ZREM', KEYS[4], ARGV[2])
  if not reopens and version > 0 and known < version - 1 then
    -- Nothing was reserved here. Older versions of the order must not be counted later; this one may.
    redis.call('HSET', KEYS[2], 'attempt', LAST_ATTEMPT, 'call', '', 'version', version - 1)
    redis.call('EXPIRE', KEYS[2], ARGV[10])
  end
  return 0
end
local nothing = ARGV[1] == 'all'
if nothing and known >= 0 then return 0 end  -- it has an order: what that counts, the ledger says
if reopens and version < known or not reopens and version >= 0 and version <= known then return 0 end

local counts, cools = held[4] ~= '0', held[5] ~= '0' and ARGV[1] ~= 'quota'
local everyone = open(KEYS[1], all_counters(ARGV[9], now), now)
local user = open(KEYS[3], user_counters(ARGV[6], ARGV[7], ARGV[8], now), now)
apply(take_back, user, everyone, tonumber(held[2]), tonumber(held[3]), counts, cools)
save(user)
save(everyone)
redis.call('ZREM', KEYS[4], ARGV[2])
if reopens then
  redis.call('HSET', KEYS[2], 'takes', 0, 'starts', 0)
elseif nothing then
  redis.call('DEL', KEYS[2])
  if held[6] then  -- a content refusal outlives what its request reserved
    redis.call('HSET', KEYS[2], 'refused', held[6])
    redis.call('EXPIRE', KEYS[2], ARGV[10])
  end
else
  if version < 0 and (counts or cools) then version = known + 1 end
  redis.call('HSET', KEYS[2], 'attempt', LAST_ATTEMPT, 'call', '', 'version', math.max(version, known),
    'takes', 0, 'starts', ARGV[1] == 'quota' and held[5] ~= '0' and 1 or 0)
end
return (counts or cools) and 1 or 0
