--[[
Put a job into a queue of ARQ, unless a job with its id waits, runs, or has left a result: as
`ArqRedis.enqueue_job` does.

KEYS  1 payload      arq:job:<id>
      2 result       arq:result:<id>
      3 queue        sorted set, job id -> Unix time in ms from which it may run
      4 in progress  arq:in-progress:<id>
ARGV  1 job id
      2 payload
      3 life         ms for which the payload is kept
Returns 1, or 0 if there was one.
]]
-- A payload alone is what a worker has left that died as it ended the job, or a caller before the queue was
-- told; nobody will run it.
if redis.call('EXISTS', KEYS[2], KEYS[4]) > 0 or redis.call('ZSCORE', KEYS[3], ARGV[1]) then return 0 end
local time = redis.call('TIME')
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[3], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), ARGV[1])
return 1
