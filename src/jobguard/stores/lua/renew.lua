--[[
Make a lease last longer. Never re-creates a record, never shortens a lease.

KEYS  1 record
ARGV  1 token  of the claim
      2 lease  ms from now on
Returns 1, or 0 if the claim is lost: other token, settled, over, or gone.
]]
local key = KEYS[1]
local now = clock()
local record = read(key)
if not record or record.token ~= ARGV[1] or record.state ~= 'P' or now >= record.ends then return 0 end
local more = now + tonumber(ARGV[2]) - record.ends
if more > 0 then
  record.ends = record.ends + more
  write(key, record, redis.call('PTTL', key) + more)
end
return 1
