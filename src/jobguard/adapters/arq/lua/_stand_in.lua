-- What stands in the place of a payload that has run out, which jobguard.adapters.arq.expired reads.
local function stand_in(id, planned, delivered, token)
  return string.format(
    '{"jobguard":"expired","version":1,"job":%s,"planned_ms":%.0f,"delivered":%.0f,"token":%s}',
    cjson.encode(id), planned, delivered, cjson.encode(token))
end
