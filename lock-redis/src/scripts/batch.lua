-- Releases and requests that came at the same time. Mostly each lock to be released is held by who says so, and each
-- that is asked for is free: then one command does for all what would be one for each. Whatever is otherwise goes one
-- by one; and where that fails, the answer says that it is to be asked for alone, since nothing was done for it.
-- KEYS: counter; the locks that are asked for; their tombstones; the locks that are released; the tombstones of the
-- first of these.
-- ARGV: highest token known, how many are asked for, how many of those released leave a tombstone; holder, TTL and ending
-- of each that is asked for, where '=' is the ending of the one before; each releasing holder; how many ms each tombstone
-- is kept.
-- Answers for each request its token, or what `request` answers; and then 1 or 0 for each release.
local asked, withdrawn = tonumber(ARGV[2]), tonumber(ARGV[3])
local locks, tombstones, released, holders = 1, 1 + asked, 1 + 2 * asked, 3 + 3 * asked
local count = #KEYS - released - withdrawn
local left, kept = released + count, holders + count
local answers = {}

local function one_by_one(from, to, call)
  for at = from, to do
    local done, answer = pcall(call, at)
    if not done or type(answer) == 'table' and answer.err then
      answer = {'alone'}
    end
    answers[at] = answer
  end
end

-- The locks to be released first: somebody here may be asking for them.
local function release_all()
  local values = redis.call('MGET', unpack(KEYS, released + 1, left))
  local held, gone = {}, {}
  for at = 1, count do
    local lock = KEYS[released + at]
    -- The same lease can be released twice.
    if values[at] and string.sub(values[at], 1, 33) == ARGV[holders + at] and not gone[lock] then
      -- First what may be denied, as for one.
      redis.call('PUBLISH', lock, '')
      held[#held + 1], gone[lock] = lock, true
      answers[asked + at] = 1
    else
      answers[asked + at] = 0
    end
  end
  for at = 1, withdrawn do
    -- In this order, as for one.
    redis.call('DEL', KEYS[left + at])
    redis.call('SET', KEYS[left + at], '', 'PX', ARGV[kept + at])
  end
  if #held > 0 then
    redis.call('DEL', unpack(held))
  end
end

if count > 0 and not pcall(release_all) then
  one_by_one(asked + 1, asked + count, function(at)
    at = at - asked
    -- Nothing stands there for those that leave none.
    return release(KEYS[released + at], ARGV[holders + at], KEYS[left + at], ARGV[kept + at])
  end)
end

for at = 2, asked do
  if ARGV[3 * at + 3] == '=' then
    ARGV[3 * at + 3] = ARGV[3 * at]
  end
end

local function request_one(at)
  local of = 3 * at + 1
  return request(
    KEYS[locks + at], KEYS[1], KEYS[tombstones + at], ARGV[of], ARGV[of + 1], ARGV[of + 2], ARGV[1], '0')
end

-- The token before as many as are needed, if they are good ones: of a counter that is neither new nor too low, and
-- where a script's numbers are exact. Else the counter is as it was, and what one by one finds there is the truth.
local function tokens()
  if redis.call('EXISTS', unpack(KEYS, 2, released)) > 0 then
    return nil
  end
  local last = redis.call('INCRBY', KEYS[1], asked)
  local before = last - asked
  if before > 0 and before >= tonumber(ARGV[1]) and last < 9007199254740992 then
    return before
  end
  redis.call('INCRBY', KEYS[1], -asked)
  return nil
end

-- A token as text. `%d` is a C long, which is short somewhere; `%.0f` takes longer; and `..` rounds.
local function text_of(token)
  return string.format(token < 2147483648 and '%d' or '%.0f', token)
end

if asked > 0 then
  local done, before = pcall(tokens)
  if not done or not before then
    one_by_one(1, asked, request_one)
    return answers
  end
  for at = 1, asked do
    local of, token = 3 * at + 1, before + at
    local value = ARGV[of] .. text_of(token) .. ARGV[of + 2]
    local set = redis.pcall('SET', KEYS[locks + at], value, 'NX', 'PX', ARGV[of + 1])
    -- The same lock can be asked for twice.
    if set and set.ok then
      answers[at] = token
    else
      one_by_one(at, at, request_one)
    end
  end
end
return answers
