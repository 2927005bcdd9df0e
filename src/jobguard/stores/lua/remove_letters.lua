--[[
Remove dead letters for good.

KEYS  1 stem     of the queue's keys
ARGV  1 token    random, of this call
      2 evicted  '1' if they make room for others, else ''
      3 id and revision of each; '' in place of a revision = whichever it is
Returns {1, or 0 if it was not there or has another revision; …}.
]]
-- include: _letter

-- include: _again

local stem = KEYS[1]
local kept = stem .. ':answer:' .. ARGV[1]
local before = answered_before(kept)
if before then return before end
local entries, removed, number, letters = stem .. ':entries', {}, 0, {}
for i = 3, #ARGV, 2 do
  local id, revision = ARGV[i], tonumber(ARGV[i + 1])
  local raw = redis.call('HGET', entries, id)
  local letter = raw and read(raw, id)
  local meant = raw and (not revision or letter and letter.revision == revision)
  if meant then
    redis.call('HDEL', entries, id)
    number, letters[#letters + 1] = number + 1, letter
    -- What is nothing of ours does not say where it was entered: by time at most.
    if not letter then
      for _, state in pairs(STATES) do redis.call('ZREM', stem .. ':' .. state, id) end
    end
  end
  removed[#removed + 1] = meant and 1 or 0
end
unlink(stem, letters)
if ARGV[2] == '1' and number > 0 then redis.call('HINCRBY', stem .. ':info', 'evicted', number) end
if number > 0 then keep_answer(kept, removed) end
return removed
