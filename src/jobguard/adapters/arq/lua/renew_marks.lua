--[[
Let the marks of running jobs last longer. One that has gone, as in a failover, is restored.

KEYS  ..  marks   arq:in-progress:<id>
ARGV  1   lease   ms from now on
      2.. tokens  which the marks bear
Returns for each mark 1, or 0 if it bears another token.
]]
local holds = {}
for place, key in ipairs(KEYS) do
  local token = ARGV[place + 1]
  local found = redis.call('GET', key)
  if found == token or not found then
    redis.call('SET', key, token, 'PX', ARGV[1])
    holds[place] = 1
  else
    holds[place] = 0
  end
end
return holds
