--[[
Put what is known of a job in the place of its payload, which has run out, for the worker that has marked it.

KEYS  1 queue       sorted set, job id -> Unix ms from which it may run
      2 payload     arq:job:<id>
      3 result      arq:result:<id>
      4 deliveries  arq:retry:<id>; this one included
ARGV  1 job id
      2 token  random text, for what tells jobs apart that had one id
      3 life   ms for which this is kept
Returns the payload that is there now; nil if the job has ended, and what was left of it in the queue has gone.
]]
-- include: _stand_in
local planned = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '')
if not planned or redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return false
end
local payload = redis.call('GET', KEYS[2])
if payload then return payload end
local delivered = math.max((tonumber(redis.call('GET', KEYS[4]) or '') or 0) - 1, 0)
payload = stand_in(ARGV[1], planned, delivered, ARGV[2])
redis.call('SET', KEYS[2], payload, 'PX', ARGV[3])
-- This delivery is the first one of what stands for the job.
redis.call('SET', KEYS[4], 1, 'KEEPTTL')
return payload
