-- Releases and requests of the same time. In the common case each lock to release is held by its
-- releasing holder, and each requested lock is free: then one command does for all what would be
-- one command for each. Other cases are done one by one; where that fails, the answer is 'alone':
-- nothing was done, and the operation has to be sent alone.
-- KEYS: counter; requested locks; their tombstones; locks to release; tombstones of the first of
-- these.
-- ARGV: highest token known, number of requests, number of releases that leave a tombstone; holder,
-- TTL and info suffix of each request, where '=' is the suffix of the one before; each releasing
-- holder; TTL of each tombstone in ms.
-- Answers for each request its token, or the answer of `request`; then 1 or 0 for each release.
local requested, withdrawn = tonumber(ARGV[2]), tonumber(ARGV[3])
local locks, tombstones, released, holders = 1, 1 + requested, 1 + 2 * requested, 3 + 3 * requested
local count = #KEYS - released - withdrawn
local released_end, tombstone_ttls = released + count, holders + count
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

-- Releases come first: a request of this batch may want the same lock.
local function release_all()
  local values = redis.call('MGET', unpack(KEYS, released + 1, released_end))
  local held, gone = {}, {}
  for at = 1, count do
    local lock = KEYS[released + at]
    -- The same lease can be released twice.
    if values[at] and string.sub(values[at], 1, 33) == ARGV[holders + at] and not gone[lock] then
      -- First the command that may be denied, as in `release`.
      redis.call('PUBLISH', lock, '')
      held[#held + 1], gone[lock] = lock, true
      answers[requested + at] = 1
    else
      answers[requested + at] = 0
    end
  end
  for at = 1, withdrawn do
    -- In this order, as in `release`.
    redis.call('DEL', KEYS[released_end + at])
    redis.call('SET', KEYS[released_end + at], '', 'PX', ARGV[tombstone_ttls + at])
  end
  if #held > 0 then
    redis.call('DEL', unpack(held))
  end
end

if count > 0 and not pcall(release_all) then
  one_by_one(requested + 1, requested + count, function(at)
    at = at - requested
    -- A release without a tombstone has no key and no TTL there.
    return release(KEYS[released + at], ARGV[holders + at], KEYS[released_end + at], ARGV[tombstone_ttls + at])
  end)
end

for at = 2, requested do
  if ARGV[3 * at + 3] == '=' then
    ARGV[3 * at + 3] = ARGV[3 * at]
  end
end

local function request_one(at)
  local of = 3 * at + 1
  return request(
    KEYS[locks + at], KEYS[1], KEYS[tombstones + at], ARGV[of], ARGV[of + 1], ARGV[of + 2], ARGV[1], '0')
end

-- Takes all tokens at once and returns the one before them, if the counter is neither new nor too
-- low, and they are exact as numbers of a script. Otherwise the counter is released_end unchanged, for the
-- requests one by one.
local function tokens()
  if redis.call('EXISTS', unpack(KEYS, 2, released)) > 0 then
    return nil
  end
  local last = redis.call('INCRBY', KEYS[1], requested)
  local before = last - requested
  if before > 0 and before >= tonumber(ARGV[1]) and last < 9007199254740992 then
    return before
  end
  redis.call('INCRBY', KEYS[1], -requested)
  return nil
end

-- A token as text. `%d` is a C long, which has 32 bits on some platforms; `%.0f` is slower; and
-- `..` rounds.
local function text_of(token)
  return string.format(token < 2147483648 and '%d' or '%.0f', token)
end

if requested > 0 then
  local done, before = pcall(tokens)
  if not done or not before then
    one_by_one(1, requested, request_one)
    return answers
  end
  for at = 1, requested do
    local of, token = 3 * at + 1, before + at
    local value = ARGV[of] .. text_of(token) .. ARGV[of + 2]
    local set = redis.pcall('SET', KEYS[locks + at], value, 'NX', 'PX', ARGV[of + 1])
    -- The same lock can be requested twice.
    if set and set.ok then
      answers[at] = token
    else
      one_by_one(at, at, request_one)
    end
  end
end
return answers
