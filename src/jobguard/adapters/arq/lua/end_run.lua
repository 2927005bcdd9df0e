--[[
Carry out what ends a run, unless the job is another run's by now: its mark bears another token, or there is
none and the job has left its queue.

KEYS  1   mark    arq:in-progress:<id>
      2   queue   sorted set, job id -> Unix ms from which it may run
ARGV  1   token   of the run, which the mark bears
      2   job id
      3.. of each command the number of its parts, and then these
Returns 1, or 0 if nothing was done.
]]
local found = redis.call('GET', KEYS[1])
if found and found ~= ARGV[1] then return 0 end
if not found and not redis.call('ZSCORE', KEYS[2], ARGV[2]) then return 0 end
local at = 3
while at <= #ARGV do
  local last = at + tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, last))
  at = last + 1
end
return 1
