--[[
Look at payloads of a queue's entries, while the right to sweep the queue holds; it is renewed.

KEYS  1    right     token of whoever sweeps the queue
      2..  payloads  arq:job:<id>
ARGV  1 token
      2 lease   ms for which the right holds
      3 margin  ms that a payload has to last
Returns 0 if somebody else has the right; else {Unix ms, then three numbers for each payload that does not
last: which it is (0-based), ms that it is kept (negative: it has gone), its bytes}.
]]
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local margin, time = tonumber(ARGV[3]), redis.call('TIME')
local found = { time[1] * 1000 + math.floor(time[2] / 1000) }
for place = 2, #KEYS do
  local left = redis.call('PTTL', KEYS[place])
  if left < margin and left ~= -1 then
    -- What is no string is no payload of ARQ's.
    local size = redis.pcall('STRLEN', KEYS[place])
    if type(size) == 'number' then
      local at = #found
      found[at + 1], found[at + 2], found[at + 3] = place - 2, left, size
    end
  end
end
return found
