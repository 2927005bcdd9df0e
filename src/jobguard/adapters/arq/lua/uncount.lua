--[[
Take a delivery out of the count of a job's deliveries, if ARQ still counts them.

KEYS  1 deliveries  arq:retry:<id>
      2 queue
ARGV  1 id of the job
      2 score under which the job was delivered, Unix ms; '' = whatever it has now. A job that has another
        one, or is not in its queue, has gone on elsewhere: then the count says more than this worker knows.
Returns the count; 0 if nothing was taken out of it.
]]
if ARGV[2] ~= '' then
  local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
  if not score or tonumber(score) ~= tonumber(ARGV[2]) then return 0 end
end
if tonumber(redis.call('GET', KEYS[1]) or 0) < 1 then return 0 end
return redis.call('DECRBY', KEYS[1], 1)
