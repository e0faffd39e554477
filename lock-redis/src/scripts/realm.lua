-- The id of the realm of the data. A new realm begins if there is none, or if it is wanted.
-- KEYS: realm. ARGV: id of a new realm, 1 if it is wanted.
local realm = redis.call('GET', KEYS[1])
if realm and ARGV[2] ~= '1' then
  return realm
end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
