--[[
Make known that somebody serves some names. What is announced already is never made to last shorter.

KEYS  1 served  sorted set, name -> server time in ms until which it is served
ARGV  1 lasts   ms from now on
      2 names
Returns 1.
]]
local served, lasts, time = KEYS[1], tonumber(ARGV[1]), redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local over = redis.call('ZRANGEBYSCORE', served, '-inf', string.format('%.0f', now), 'LIMIT', 0, 500)
for _, name in ipairs(over) do redis.call('ZREM', served, name) end
for i = 2, #ARGV do
  local before = redis.call('ZSCORE', served, ARGV[i])
  if not before or tonumber(before) < now + lasts then
    redis.call('ZADD', served, string.format('%.0f', now + lasts), ARGV[i])
  end
end
if redis.call('PTTL', served) < lasts then redis.call('PEXPIRE', served, ARGV[1]) end
return 1
