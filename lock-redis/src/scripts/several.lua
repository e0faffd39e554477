-- Requests and releases that came at the same time, one after the other; each answer stands alone, and one that fails
-- says that it is to be asked for alone.
-- KEYS: counter, then for each request its lock and tombstone, and for each release its lock. ARGV: highest token known,
-- then for each its holder, and TTL and ending, which are empty for a release.
local answers, key = {}, 2
for at = 2, #ARGV, 3 do
  local done, answer
  if ARGV[at + 1] == '' then
    done, answer = pcall(release, KEYS[key], ARGV[at])
    key = key + 1
  else
    done, answer = pcall(request, KEYS[key], KEYS[1], KEYS[key + 1], ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[1], '0')
    key = key + 2
  end
  if not done or type(answer) == 'table' and answer.err then
    answer = {'alone'}
  end
  answers[#answers + 1] = answer
end
return answers
