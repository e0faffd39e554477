-- Gives back what the holder has, and tells the waiters. Where a request of the same holder may still be under way, it
-- leaves a tombstone for so many ms, which such a late request meets.
local function release(lock, holder, tombstone, ms)
  local value, failed = read(lock)
  if failed then
    return failed
  end
  local held = value and string.sub(value, 1, 33) == holder .. '.'
  if held then
    redis.call('DEL', lock)
    redis.call('PUBLISH', lock, '')
  end
  if tombstone then
    redis.call('SET', tombstone, '', 'PX', ms)
  end
  return held and 1 or 0
end
