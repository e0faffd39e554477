-- Sets the expiry of the locks that are still held by these holders; never takes a lock.
-- KEYS: locks. ARGV: for each its holder, and its TTL in ms. Answers 1, 0, or -1 for a lock that
-- could not be read.
local answers = {}
for at = 1, #KEYS do
  local value, failed = read(KEYS[at])
  if failed then
    answers[at] = -1
  elseif value and string.sub(value, 1, 33) == ARGV[2 * at - 1] then
    answers[at] = redis.call('PEXPIRE', KEYS[at], ARGV[2 * at])
  else
    answers[at] = 0
  end
end
return answers
