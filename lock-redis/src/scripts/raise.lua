-- Raises the token of the holder's lease, and the counter with it; never lowers either, and changes
-- no expiry.
-- KEYS: lock, counter. ARGV: holder, token, 1 if the counter may be new.
local value, failed = read(KEYS[1])
if failed then
  return failed
end
if not value or string.sub(value, 1, 33) ~= ARGV[1] then
  return {'refused'}
end
local token, ending = string.match(value, '^%x+%.(%d+)(.*)$')
if not token or is_less(ARGV[2], token) then
  return {'refused'}
end
local counter = redis.call('GET', KEYS[2])
if not counter and ARGV[3] ~= '1' then
  return {'new'}
end
if not counter or is_less(counter, ARGV[2]) then
  redis.call('SET', KEYS[2], ARGV[2])
end
if token ~= ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2] .. ending, 'KEEPTTL')
end
return {'raised'}
