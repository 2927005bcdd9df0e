--[[
Record what a run came to, unless another claim has taken over.

KEYS  1 record
ARGV  1 owner        identity of the job
      2 token        of the claim, or of the delivery where there is none
      3 fence        of the claim, or '' where there is none
      4 state        'R', 'I', 'S', 'F' or 'D'
      5 lasts        ms until a retry is due, or for which other jobs see an ended state
      6 keep         ms for which the record is kept at least
      7 overdue      ms past due after which another job may take over a retry
      8 fingerprint  of the payload, or ''
      9 tail         the history of an open state, the body of an ended one
     10 has tail     '1', or '0' for an ended state without a body
Returns 1, or {holder, its fence} if refused.
]]
local key, owner, token, claimed, state = KEYS[1], ARGV[1], ARGV[2], ARGV[3] ~= '', ARGV[4]
local lasts, keep, overdue = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local now = clock()
local record = read(key)

if not record then
  record = { fence = tonumber(ARGV[3]) or 0, crashes = 0, first = now, owner = owner, fingerprint = '' }
else
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
end

local lives = keep
if ENDED[state] then
  lives = math.max(lasts, keep)
  record.crashes = 0
elseif state == 'R' then
  lives = lasts + keep + overdue
else
  lasts = 0
end
record.state = state
record.token = token
record.ends = now + lasts
record.overdue = state == 'R' and overdue or 0
if ARGV[8] ~= '' then record.fingerprint = ARGV[8] end
record.tail = ARGV[10] == '1' and ARGV[9]
write(key, record, lives)
return 1
