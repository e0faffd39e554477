-- Releases the holder's lease, and notifies the waiters. Where a request of the same holder may
-- arrive late, it leaves a tombstone for `ms` milliseconds, which refuses that request.
-- Given: lock, holder, tombstone, ms.
local value = redis.pcall('GET', lock)
-- A value of another type is held by another program.
if type(value) == 'table' then
  if not string.find(value.err, 'WRONGTYPE', 1, true) then
    return value
  end
  value = ''
end
local held = value and string.sub(value, 1, 33) == holder
-- First the command that may be denied: then nothing was done.
if held then
  redis.call('PUBLISH', lock, '')
end
if tombstone then
  -- A server without memory refuses a SET, except after a write that cannot take more memory.
  redis.call('DEL', tombstone)
  redis.call('SET', tombstone, '', 'PX', ms)
end
if held then
  redis.call('DEL', lock)
end
return held and 1 or 0
