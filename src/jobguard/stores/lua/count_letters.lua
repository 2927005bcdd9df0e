--[[
How many dead letters there are in some indexes.

KEYS  indexes    sorted sets, id -> server time in µs
ARGV  1 lowest   arrival in µs, or '-inf'
      2 highest  the same, or '+inf'
Returns their number.
]]
local count = 0
for _, index in ipairs(KEYS) do count = count + redis.call('ZCOUNT', index, ARGV[1], ARGV[2]) end
return count
