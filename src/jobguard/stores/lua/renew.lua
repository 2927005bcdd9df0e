--[[
Make a lease last longer. Never re-creates a record, never shortens a lease.

KEYS  1 record
ARGV  1 token  of the claim
      2 lease  ms from now on
Returns 1, or 0 if the claim is lost: other token, settled, over, or gone.
]]
local key = KEYS[1]
local raw = redis.call('GET', key)
if not raw then return 0 end

-- include: _record

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local record = read(raw)
if record.token ~= ARGV[1] or record.state ~= 'P' or now >= record.ends then return 0 end
local more = now + tonumber(ARGV[2]) - record.ends
if more > 0 then
  record.ends = record.ends + more
  write(key, record, string.format('%.0f', redis.call('PTTL', key) + more))
end
return 1
