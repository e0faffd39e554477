-- What is kept for a quorum, with the realm that it is a part of; another text is kept if both are still as they were.
-- KEYS: realm, kept. ARGV: a realm that was never used before; for a change also the realm and the text that were, and
-- the text that is wanted. No text is an empty one.
local realm = redis.call('GET', KEYS[1])
if not realm then
  realm = ARGV[1]
  redis.call('SET', KEYS[1], realm)
end
local kept = redis.call('GET', KEYS[2]) or ''
if ARGV[2] == realm and ARGV[3] == kept then
  kept = ARGV[4]
  redis.call('SET', KEYS[2], kept)
end
return {realm, kept}
