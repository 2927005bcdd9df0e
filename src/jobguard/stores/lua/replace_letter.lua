--[[
Write a dead letter anew, if nobody else has meanwhile.

KEYS  1 stem      of the queue's keys
ARGV  1 id
      2 mark      of its state
      3 tail      as in a packed letter
      4 revision  that is to be replaced
      5 arrive    '1' if it becomes the newest of the queue, else ''
      6 bound     dead letters of the queue, of more of which somebody is to be told; or '' for none
Returns nil if it is gone or has another revision; else what _kept says, as of a letter that is not new.
]]
-- include: _letter

-- include: _kept

local stem, id, mark, tail, revision = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local raw = redis.call('HGET', stem .. ':entries', id)
local before = raw and read(raw, id)
if not before then return nil end
if before.revision ~= revision then
  -- This very change stands already: sent again after a lost reply.
  local same = before.mark == mark and string.sub(raw, before.tail_at) == tail
  return before.revision == revision + 1 and same and kept_as(stem, before, 0, ARGV[6]) or nil
end
note_fewest(stem)
local after = parse(tail, 1)
after.id, after.mark, after.revision = id, mark, revision + 1
after.arrival = ARGV[5] == '1' and next_arrival(stem) or before.arrival
unlink(stem, { before })
write(stem, after, tail)
return kept_as(stem, after, 0, ARGV[6])
