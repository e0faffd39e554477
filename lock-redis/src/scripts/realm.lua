-- The realm of the data; begun here if there is none, or if a new one is wanted.
-- KEYS: realm. ARGV: a realm that was never used before, is it wanted.
local realm = redis.call('GET', KEYS[1])
if realm and ARGV[2] ~= '1' then
  return realm
end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
