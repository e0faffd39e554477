-- Gives back what the holder has, and tells the waiters. Where a request of the same holder may still be under way, it
-- leaves a tombstone that such a late request meets.
-- KEYS: lock, tombstone if one is wanted. ARGV: holder, the tombstone's time in ms.
local value, failed = read(KEYS[1])
if failed then
  return failed
end
local held = value and string.sub(value, 1, 33) == ARGV[1] .. '.'
if held then
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', KEYS[1], '')
end
if KEYS[2] then
  redis.call('SET', KEYS[2], '', 'PX', ARGV[2])
end
return held and 1 or 0
