--[[
Record what a run came to, unless another claim has taken over.

KEYS  1 record
ARGV  1 identity  owner, token (of the claim, or of the delivery where there is none) and fingerprint
                  of the payload, as in a record
      2 state     'R', 'I', 'S', 'F' or 'D', and '+' if a tail follows, else '-'
      3 lasts     ms until a retry is due, or for which other jobs see an ended state
      4 lives     ms for which the record is kept
      5 overdue   ms past due after which another job may take over a retry
      6 fence     of the claim, or '' where there is none
      7 tail      the history of an open state, the body of an ended one
Returns 1, or {holder, its fence} if refused.
]]
local key, identity, claimed = KEYS[1], ARGV[1], ARGV[6] ~= ''
local state, lasts, lives = string.sub(ARGV[2], 1, 1), tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local raw = redis.call('GET', key)

-- Most settlements end here: a success under the claim that the record shows.
if state == 'S' and claimed and raw then
  local fence_at, identity_at = string.match(raw, '^P%+ %d+ 0 %d+ ()%d+ %-?%d+ ()')
  if identity_at and string.sub(raw, identity_at, identity_at + #identity - 1) == identity then
    redis.call(
      'SET', key, ARGV[2] .. string.format(' %.0f 0 0 ', now + lasts)
        .. string.sub(raw, fence_at, identity_at - 1) .. identity .. ARGV[7], 'PX', lives)
    return 1
  end
end

-- include: _record

local owner, token, fingerprint = identify(identity)
local record
if raw then
  record = read(raw)
  local mine = record.token == token
  local unclaimed = not claimed and record.owner == owner
  -- This outcome stands already: sent again after a lost reply, or by another delivery.
  if record.state == state and (mine or unclaimed and ENDED[state]) then return 1 end
  local allowed
  if mine then
    -- An interrupted run may still end: aborted in its queue, or by a task that released its claim first.
    allowed = record.state == 'P' or record.state == 'I' and ENDED[state]
  else
    allowed = unclaimed and (record.state == 'R' or record.state == 'I')
  end
  if not allowed then return { record.owner, record.fence } end
else
  record = { fence = tonumber(ARGV[6]) or 0, crashes = 0, first = now, owner = owner, fingerprint = '' }
end

if ENDED[state] then record.crashes = 0 end
record.state = state
record.token = token
record.ends = now + (state == 'I' and 0 or lasts)
record.overdue = state == 'R' and tonumber(ARGV[5]) or 0
if fingerprint ~= '' then record.fingerprint = fingerprint end
record.tail = string.sub(ARGV[2], 2) == '+' and ARGV[7]
write(key, record, lives)
return 1
