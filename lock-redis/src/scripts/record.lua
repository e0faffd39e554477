-- The record of a quorum, with the realm that it belongs to. It is replaced if both are still as
-- expected.
-- KEYS: realm, record. ARGV: id of a new realm; to replace the record also the expected realm, the
-- expected text and the new text. A missing record is an empty text.
local realm = redis.call('GET', KEYS[1])
if not realm then
  realm = ARGV[1]
  redis.call('SET', KEYS[1], realm)
end
local text = redis.call('GET', KEYS[2]) or ''
if ARGV[2] == realm and ARGV[3] == text then
  text = ARGV[4]
  redis.call('SET', KEYS[2], text)
end
return {realm, text}
