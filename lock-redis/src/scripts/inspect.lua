-- The values of these locks, and their remaining time in ms.
-- KEYS: locks.
local answers = {}
for at = 1, #KEYS do
  local value, failed = read(KEYS[at])
  if failed then
    return failed
  end
  answers[2 * at - 1] = value
  answers[2 * at] = value and redis.call('PTTL', KEYS[at]) or 0
end
return answers
