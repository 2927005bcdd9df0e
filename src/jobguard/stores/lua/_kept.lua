--[[
What those who write a letter are told of its queue. Needs _letter.

"told" and "teller" in the queue's info are of the last time that it was found to hold too many dead letters:
how many those were, or the fewest that there have been since, and which write it was that was told.
]]

-- To be called before letters are written: a queue that was down may rise again.
local function note_fewest(stem)
  local told = tonumber(redis.call('HGET', stem .. ':info', 'told') or 0)
  local dead = redis.call('ZCARD', stem .. ':dead')
  if dead < told then redis.call('HSET', stem .. ':info', 'told', dead) end
end

-- {1 if the letter is new, else 0; dead letters of the queue; those of them that have its fingerprint, or 0 if
-- it is not dead itself; 1 if it is this write that has carried the queue past a bound, else 0}.
-- letter: as it stands, or nil if it is nothing of ours. bound: dead letters, or '' for none.
local function kept_as(stem, letter, new, bound)
  local info, dead, kind, grew = stem .. ':info', redis.call('ZCARD', stem .. ':dead'), 0, 0
  if letter and letter.mark == 'D' then
    kind = redis.call('ZCARD', stem .. ':dead:fingerprint:' .. letter.fingerprint)
    local most = tonumber(bound)
    if most and dead > most then
      local told, teller = unpack(redis.call('HMGET', info, 'told', 'teller'))
      local write = whole(letter.revision) .. ' ' .. letter.id
      if tonumber(told or 0) <= most then
        redis.call('HSET', info, 'told', dead, 'teller', write)
        teller = write
      end
      if teller == write then grew = 1 end
    end
  end
  return { new, dead, kind, grew }
end
