-- Gives back what the holder has, and tells the waiters. Where a request of the same holder may still be under way, it
-- leaves a tombstone for so many ms, which such a late request meets.
-- Given: lock, holder, tombstone, ms.
local value = redis.pcall('GET', lock)
-- What is of another type is held by another, all the same.
if type(value) == 'table' then
  if not string.find(value.err, 'WRONGTYPE', 1, true) then
    return value
  end
  value = ''
end
local held = value and string.sub(value, 1, 33) == holder
-- First what may be denied: then nothing was done.
if held then
  redis.call('PUBLISH', lock, '')
end
if tombstone then
  -- A server without memory refuses what could take more of it, but not after a write that cannot.
  redis.call('DEL', tombstone)
  redis.call('SET', tombstone, '', 'PX', ms)
end
if held then
  redis.call('DEL', lock)
end
return held and 1 or 0
