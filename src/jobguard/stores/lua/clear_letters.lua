--[[
Remove some of the dead letters that were there at a time, oldest first.

KEYS  1 entries  hash, id -> text
      2 by_time  sorted set, id -> server time in µs, no two alike
ARGV  1 limit    letters at most; 0 = none, only the answer to until
      2 until    arrival in µs of the last letter that is meant, or '' for the newest there is now
Returns {letters removed, until}; until is '' where there are no letters.
]]
local last = ARGV[2]
if last == '' then
  local newest = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  if not newest[2] then return { 0, '' } end
  last = string.format('%.0f', tonumber(newest[2]))
end
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', last, 'LIMIT', 0, tonumber(ARGV[1]))
for _, id in ipairs(ids) do
  redis.call('ZREM', KEYS[2], id)
  redis.call('HDEL', KEYS[1], id)
end
return { #ids, last }
