--[[
Take a delivery out of the count of a job's deliveries, if ARQ still counts them.

KEYS  1 deliveries  arq:retry:<id>
Returns the count; 0 if there is none, which a job that has ended elsewhere leaves.
]]
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return redis.call('DECRBY', KEYS[1], 1)
