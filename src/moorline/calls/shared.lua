-- What all processes know together of one service: its breaker, the limits of its rate gate, and its retry budgets.
-- The rules are those of moorline.policies; the state of each part is one JSON text, which expires when nobody uses it.
--
-- KEYS: the parts that the messages name, by their number. ARGV[1]: the messages, as a JSON array; ARGV[2]: the time in
-- seconds, where it is not the server's. Returns a JSON array with one answer for each message.

local MOST_RETRIES = 20 -- of a budget; one comes back each second
local ROUNDING = 1.5 -- seconds by which two accounts of the same reset differ
local FORGOTTEN = 60 -- seconds
local UNNAMED = 1 -- seconds that a window at least has which the service does not name
local MOST_LANES = 200 -- names come from headers, and their number has no bound

local time = redis.call('TIME')
-- Numbers are written with 14 digits: counted from 2026 that leaves microseconds.
local now = tonumber(ARGV[2]) or (tonumber(time[1]) - 1767225600 + tonumber(time[2]) / 1e6)

local parts, changed = {}, {}

local function part(number, fresh)
  if parts[number] == nil then
    local text = redis.call('GET', KEYS[number])
    parts[number] = text and cjson.decode(text) or fresh()
  end
  return parts[number]
end

local function given(value)
  if value == cjson.null then return nil end
  return value
end

-- The breaker ---------------------------------------------------------------------------------------------------------

local function new_breaker()
  return {state = 'closed', generation = 1, row = 0, worked = 0, ends = 0, slowness = false,
          probes = {}, buckets = {}, reason = ''}
end

-- Until nothing of it matters any longer: neither what it counted nor who is out.
local function keep_breaker(number, rules)
  local longest = math.max(rules.window, rules.reset)
  for _, ends in pairs(parts[number].probes) do longest = math.max(longest, ends - now) end
  changed[number] = longest * 2 + FORGOTTEN
end

local function enter(breaker, state, reason, rules)
  breaker.state, breaker.reason = state, reason
  breaker.generation = breaker.generation + 1
  breaker.row, breaker.worked, breaker.probes, breaker.buckets = 0, 0, {}, {}
  if state == 'closed' then
    breaker.slowness = false
  elseif state == 'open' then
    breaker.ends = now + rules.reset
  end
end

-- How many probes are out, and how long until it is worth to ask again: most come back long before their leases end.
local function probing(breaker, rules)
  local count, first = 0, nil
  for name, ends in pairs(breaker.probes) do
    if ends <= now then
      breaker.probes[name] = nil
    else
      count = count + 1
      first = math.min(first or ends, ends)
    end
  end
  return count, first and math.min(first - now, rules.reset) or 0
end

-- Nil where an attempt may be made; otherwise the answer that refuses it.
local function held_off(breaker, message)
  local rules = message.rules
  if breaker.state == 'open' then
    if now < breaker.ends then
      return {no = 'breaker', state = 'open', wait = breaker.ends - now, why = breaker.reason}
    end
    enter(breaker, 'half_open', string.format('open for %g s', rules.reset), rules)
    keep_breaker(message.breaker, rules)
  end
  if breaker.state == 'half_open' then
    local out, wait = probing(breaker, rules)
    if out >= rules.probes then
      return {no = 'breaker', state = 'half_open', wait = wait, why = 'another process tries it out'}
    end
  end
end

local function permit(breaker, message, answer)
  answer.generation = breaker.generation
  if breaker.state == 'half_open' then
    breaker.given = (breaker.given or 0) + 1
    answer.probe = tostring(breaker.given)
    breaker.probes[answer.probe] = now + message.lease
    keep_breaker(message.breaker, message.rules)
  end
end

local function plural(number, word)
  return string.format('%d %s%s', number, word, number == 1 and '' or 's')
end

local function judge(breaker, rules)
  local oldest = math.floor(now / (rules.window / 10)) - 9
  local calls, failed, slow = 0, 0, 0
  for name, counts in pairs(breaker.buckets) do
    if tonumber(name) < oldest then
      breaker.buckets[name] = nil
    else
      calls, failed, slow = calls + counts[1], failed + counts[2], slow + counts[3]
    end
  end
  local rate, slow_rate, enough = given(rules.rate), given(rules.slow_rate), calls >= rules.minimum
  if breaker.row >= rules.failures then
    enter(breaker, 'open', plural(breaker.row, 'failure') .. ' in a row', rules)
  elseif enough and rate and failed / calls >= rate then
    enter(breaker, 'open', string.format('%d of %s failed in %g s', failed, plural(calls, 'call'), rules.window), rules)
  elseif enough and slow_rate and slow / calls >= slow_rate then
    enter(breaker, 'open', string.format('%d of %s were slower than %g s', slow, plural(calls, 'call'), breaker.threshold), rules)
    breaker.slowness = true
  end
end

local function count(breaker, message, calls, failed, slow)
  local rules = message.rules
  local name = string.format('%d', math.floor(now / (rules.window / 10)))
  local counts = breaker.buckets[name] or {0, 0, 0}
  breaker.buckets[name] = {counts[1] + calls, counts[2] + failed, counts[3] + slow}
  breaker.row = failed > 0 and breaker.row + failed or 0
  if slow > 0 then breaker.threshold = message.slow end
  judge(breaker, rules)
end

local function probed(breaker, message)
  local rules, worked, slow = message.rules, given(message.worked), given(message.slow)
  breaker.probes[message.probe] = nil -- where its lease ran out, it tells how the service is all the same
  if worked == nil then return end
  if not worked then
    enter(breaker, 'open', 'probe failed: no good answer', rules)
  elseif breaker.slowness and slow and message.elapsed > slow then
    enter(breaker, 'open', string.format('probe failed: it worked, but was slower than %g s', slow), rules)
  else
    breaker.worked = breaker.worked + 1
    if breaker.worked >= rules.successes then
      enter(breaker, 'closed', plural(breaker.worked, 'probe') .. ' worked', rules)
    end
  end
end

local function settle(message)
  local breaker = part(message.breaker, new_breaker)
  if message.generation ~= breaker.generation then return end
  if breaker.state == 'half_open' then
    probed(breaker, message)
  elseif given(message.worked) ~= nil then
    local slow = given(message.slow) and message.elapsed > message.slow
    count(breaker, message, 1, message.worked and 0 or 1, slow and 1 or 0)
  end
  keep_breaker(message.breaker, message.rules)
end

-- Good answers that came since the last message, counted together.
local function worked(message)
  local breaker = part(message.breaker, new_breaker)
  if message.generation ~= breaker.generation or breaker.state ~= 'closed' then return end
  count(breaker, message, message.calls, 0, message.slowed)
  keep_breaker(message.breaker, message.rules)
end

-- The rate gate -------------------------------------------------------------------------------------------------------

local function new_gate()
  return {quotas = {}, closed = {}, limits = {}}
end

local function keep_gate(number, seconds)
  changed[number] = math.max(changed[number] or 0, seconds + FORGOTTEN)
end

-- The window of a service that does not name it may be longer than any reset that was seen.
local function lasts(limit)
  return limit.named and limit.window or math.max(limit.window, UNNAMED)
end

-- Bring one limit of the service up to now; false where it is to be forgotten.
local function current(limit)
  if limit.refill > 0 then
    limit.left = math.min(limit.most, limit.left + (now - limit.at) * limit.refill)
    limit.at = now
  elseif now >= limit.resets then
    if limit.window <= 0 then return false end
    limit.over = limit.resets -- an answer that speaks of this one comes too late
    limit.left, limit.resets, limit.guessed = limit.most, now + lasts(limit), true
  end
  return now - limit.seen <= 2 * limit.window + FORGOTTEN
end

local function lanes(gate, lane)
  local found = {}
  for _, name in ipairs(lane == '' and {''} or {'', lane}) do
    found[#found + 1] = {name = name, limits = gate.limits[name] or {}, closed = gate.closed[name] or 0}
  end
  return found
end

-- The wait that a limit of the service means for this cost.
local function lacking(limit, cost)
  local wanted = math.min(cost, limit.most)
  if limit.slides or limit.left >= wanted then return 0 end
  if limit.refill > 0 then return (wanted - limit.left) / limit.refill end
  return limit.resets - now
end

local function turned_away(gate, message)
  for _, lane in ipairs(lanes(gate, message.lane)) do
    if lane.closed > now then
      return {no = 'closed', lane = lane.name, wait = lane.closed - now, why = 'the service asked to wait'}
    end
    for policy, limit in pairs(lane.limits) do
      if not current(limit) then
        lane.limits[policy] = nil
      else
        local wait = lacking(limit, message.cost)
        if wait > 0 then
          return {no = 'limit', lane = lane.name, policy = policy, limit = limit.most, window = limit.window, wait = wait,
                  why = 'all processes together have used what the service allows'}
        end
      end
    end
  end
end

-- Seconds until our own quotas let this cost pass. They are then taken at once, so that turns are kept in order.
local function turn(gate, message)
  local longest, why = 0, nil
  for number, quota in ipairs(message.quotas) do
    local held = gate.quotas[number] or {quota.burst, now}
    held = {math.min(quota.burst, held[1] + (now - held[2]) * quota.rate), now}
    gate.quotas[number] = held
    local lacks = math.min(message.cost, quota.burst) - held[1]
    if lacks > 0 and lacks / quota.rate > longest then longest, why = lacks / quota.rate, quota.text end
  end
  local most = given(message.longest)
  if most and longest >= most and longest > 0 then return longest, why, false end
  for number in ipairs(message.quotas) do gate.quotas[number][1] = gate.quotas[number][1] - message.cost end
  return longest, why, true
end

local function take(gate, message)
  for _, lane in ipairs(lanes(gate, message.lane)) do
    for _, limit in pairs(lane.limits) do limit.left = limit.left - message.cost end
  end
end

local function refund(message)
  local gate = part(message.gate, new_gate)
  for number, quota in ipairs(message.quotas) do
    local held = gate.quotas[number]
    if held then held[1] = math.min(quota.burst, held[1] + message.cost) end
  end
  for _, lane in ipairs(lanes(gate, message.lane)) do
    for _, limit in pairs(lane.limits) do limit.left = math.min(limit.most, limit.left + message.cost) end
  end
  keep_gate(message.gate, FORGOTTEN)
end

local function heed(gate, reading)
  local limits = gate.limits[reading.lane]
  if not limits then
    local count = 0
    for _ in pairs(gate.limits) do count = count + 1 end
    if count >= MOST_LANES then return 0 end
    limits = {}
    gate.limits[reading.lane] = limits
  end
  local most, tells = given(reading.limit) or reading.remaining + 1, given(reading.resets_in)
  local window = math.max(given(reading.window) or 0, tells or 0)
  local resets = now + (tells or (window > 0 and window) or 1)
  local limit = limits[reading.policy]
  if not limit or not current(limit) then
    limit = {left = reading.remaining, most = most, window = window, resets = resets, guessed = false, at = now}
    limits[reading.policy] = limit
  elseif reading.refill > 0 or (tells and resets > limit.resets + ROUNDING and not limit.guessed) then
    limit.left, limit.resets = reading.remaining, resets
  elseif not (tells and limit.over and resets <= limit.over + math.min(lasts(limit), UNNAMED) / 2) then
    limit.left = math.min(limit.left, reading.remaining)
    if tells then limit.resets = limit.guessed and resets or math.min(limit.resets, resets) end
    limit.guessed = false
  end
  limit.most = math.max(most, given(reading.limit) and 0 or limit.most)
  limit.window = math.max(window, given(reading.window) and 0 or limit.window)
  limit.named = limit.named or given(reading.window) ~= nil
  limit.refill, limit.slides, limit.at, limit.seen = reading.refill, reading.slides, now, now
  return math.max(limit.window, resets - now)
end

local function heard(message)
  local gate, keep = part(message.gate, new_gate), 0
  for lane, limits in pairs(gate.limits) do
    for policy, limit in pairs(limits) do
      if not current(limit) then limits[policy] = nil end
    end
    if next(limits) == nil then gate.limits[lane] = nil end
  end
  for _, reading in ipairs(message.readings) do keep = math.max(keep, heed(gate, reading)) end
  if message.close > 0 then
    gate.closed[message.lane] = math.max(gate.closed[message.lane] or 0, now + message.close)
    keep = math.max(keep, message.close)
  end
  for lane, ends in pairs(gate.closed) do
    if ends <= now then gate.closed[lane] = nil else keep = math.max(keep, ends - now) end
  end
  keep_gate(message.gate, 2 * keep)
end

-- The retry budget ----------------------------------------------------------------------------------------------------

local function budget_of(message)
  local budget = part(message.budget, function() return {left = MOST_RETRIES, at = now} end)
  changed[message.budget] = FORGOTTEN
  return budget
end

local function earn(message, part_of)
  local budget = budget_of(message)
  budget.left = math.min(MOST_RETRIES, budget.left + part_of)
end

local function retry(message)
  local budget = budget_of(message)
  budget.left = math.min(MOST_RETRIES, budget.left + (now - budget.at))
  budget.at = now
  if budget.left < 1 then return {no = 'budget', wait = 1 - budget.left, why = 'spent'} end
  budget.left = budget.left - 1
  return {wait = 0}
end

-- All together --------------------------------------------------------------------------------------------------------

local function admit(message)
  if message.earned > 0 then earn(message, message.earned) end
  local breaker = message.breaker > 0 and part(message.breaker, new_breaker)
  local gate = part(message.gate, new_gate)
  local no = (breaker and held_off(breaker, message)) or turned_away(gate, message)
  if no then return no end
  local wait, why, mine = turn(gate, message)
  local known = next(gate.limits) ~= nil or #message.quotas > 0
  if known then keep_gate(message.gate, wait + message.keep) end
  if not mine then return {no = 'quota', wait = wait, why = why} end
  if known then take(gate, message) end
  local answer = {wait = wait, why = why}
  if breaker then permit(breaker, message, answer) end
  return answer
end

local deeds = {
  admit = admit, settle = settle, worked = worked, refund = refund, heard = heard, retry = retry,
  unretry = function(message) earn(message, 1) end,
}

local answers = {}
for number, message in ipairs(cjson.decode(ARGV[1])) do
  answers[number] = deeds[message['do']](message) or cjson.null
end
for number, seconds in pairs(changed) do
  redis.call('SET', KEYS[number], cjson.encode(parts[number]), 'EX', string.format('%d', math.ceil(seconds)))
end
return cjson.encode(answers)
