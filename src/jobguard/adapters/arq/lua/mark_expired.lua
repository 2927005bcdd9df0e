--[[
Put what is known of jobs in the place of their payloads, which have run out, and have them delivered now.

Left alone: an entry that has left its queue; one whose payload is back; one that a worker has; and one whose
job has ended.

KEYS  1    queue     sorted set, job id -> Unix ms from which it may run
      2..  of each job: payload (arq:job:<id>), mark (arq:in-progress:<id>), result (arq:result:<id>) and
           deliveries (arq:retry:<id>)
ARGV  1    token  random text, for what tells jobs apart that had one id
      2    life   ms for which this is kept
      3..  job ids
Returns how many jobs have run out.
]]
-- include: _stand_in
local marked = 0
for place = 3, #ARGV do
  local id, at = ARGV[place], 4 * (place - 3) + 2
  local payload, mark, result, deliveries = KEYS[at], KEYS[at + 1], KEYS[at + 2], KEYS[at + 3]
  local planned = tonumber(redis.call('ZSCORE', KEYS[1], id) or '')
  if planned and redis.call('EXISTS', payload, mark, result) == 0 then
    local delivered = tonumber(redis.call('GET', deliveries) or '') or 0
    redis.call('SET', payload, stand_in(id, planned, delivered, ARGV[1]), 'PX', ARGV[2])
    -- Deliveries from here on are of what stands for the job.
    redis.call('DEL', deliveries)
    -- The front of the queue, due by any clock: where ARQ itself puts a job that is aborted before its time.
    redis.call('ZADD', KEYS[1], 1, id)
    marked = marked + 1
  end
end
return marked
