--[[
Keep payloads for longer, unless another has come in a payload's place, or none.

KEYS  ..  payloads  arq:job:<id>
ARGV  1   life      ms from now for which they are kept
      2.. digests   SHA-1 in hex of each payload that is meant
Returns how many are kept for longer.
]]
local extended = 0
for place, key in ipairs(KEYS) do
  local payload = redis.call('GET', key)
  if payload and redis.sha1hex(payload) == ARGV[place + 1] then
    extended = extended + redis.call('PEXPIRE', key, ARGV[1])
  end
end
return extended
