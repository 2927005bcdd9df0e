--[[
Carry out what ends a run, unless the job's mark is another run's by now, or has ended.

KEYS  1   mark   arq:in-progress:<id>
ARGV  1   token  of the run, which the mark bears
      2.. of each command the number of its parts, and then these
Returns 1, or 0 if nothing was done.
]]
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local at = 2
while at <= #ARGV do
  local last = at + tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, last))
  at = last + 1
end
return 1
