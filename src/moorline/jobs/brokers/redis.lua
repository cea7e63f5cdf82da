-- Jobs in Redis. Each deed is one run of this script, so that it happens whole or not at all.
--
-- KEYS[1] begins every key, and holds the hash tag that keeps them in one slot of a cluster. ARGV[1] is the deed, the rest
-- as its function says. Times are seconds since the epoch, as text; absent values are the empty text.
--
--   job:<id>                a hash: d (the row as it came) q (queue) p (priority) s (state) t (due) a (attempts)
--                           v (deliveries) c (crashes) z (snoozes) w (worker) u (unique key) o (order key) g (event)
--                           b (started) f (finished) e (last error) r (reason)
--   errors:<id>             its last failures, newest first
--   ready:<queue>:<0 to 9>  ids by the time at which they are due;  suspects:<queue>  those whose worker died
--   in:<queue>:<state>      ids in that state, in their own order, for lists and counts
--   head:<order key>        the id of the head;  blocked:<order key>  the ids behind it
--   unique:<unique key>     the id that has it
--   event:<id>              ids of the jobs of an event
--   ended                   done and cancelled ids by the time of their end
--   leases, workers         when each worker's lease ends, and what it is;  held:<worker>, holders  what it runs
--   queues                  all names

local PREFIX = KEYS[1]
local CRASHES, ERRORS, BATCH, SHOWN = 3, 10, 1000, 3600
local STATES = {'ready', 'running', 'blocked', 'done', 'dead', 'cancelled'}
local call = redis.call

local function job(id) return PREFIX .. 'job:' .. id end

local function each(list, size, act)
  for first = 1, #list, size do act(unpack(list, first, math.min(first + size - 1, #list))) end
end

local function wake() call('PUBLISH', PREFIX .. 'wake', '') end

local function waiting(h)
  if tonumber(h.c) > 0 then return PREFIX .. 'suspects:' .. h.q end
  return PREFIX .. 'ready:' .. h.q .. ':' .. h.p
end

local function load(id)
  local f = call('HMGET', job(id), 'q', 'p', 's', 't', 'a', 'v', 'c', 'z', 'w', 'u', 'o')
  if not f[1] then return nil end
  return {id = id, q = f[1], p = f[2], s = f[3], t = f[4], a = tonumber(f[5]), v = tonumber(f[6]), c = tonumber(f[7]),
    z = tonumber(f[8]), w = f[9] or '', u = f[10] or '', o = f[11] or ''}
end

-- The job leaves the lists of its state and enters those of the other; the caller writes the hash.
local function move(h, to)
  call('ZREM', PREFIX .. 'in:' .. h.q .. ':' .. h.s, h.id)
  call('ZADD', PREFIX .. 'in:' .. h.q .. ':' .. to, 0, h.id)
  h.s = to
end

local function drop(h)
  if h.s == 'ready' then call('ZREM', waiting(h), h.id)
  elseif h.s == 'running' then call('SREM', PREFIX .. 'held:' .. h.w, h.id)
  elseif h.s == 'blocked' then call('ZREM', PREFIX .. 'blocked:' .. h.o, h.id)
  elseif h.s == 'done' or h.s == 'cancelled' then call('ZREM', PREFIX .. 'ended', h.id) end
end

local function original(key) return (key:gsub('^%-', '')) end

-- The head of that key has ended: the oldest that is behind it takes its place. Whether there was one.
local function free(key)
  local after = call('ZRANGE', PREFIX .. 'blocked:' .. key, 0, 0)[1]
  if not after then call('DEL', PREFIX .. 'head:' .. key) return false end
  local h = load(after)
  drop(h)
  move(h, 'ready')
  call('HSET', job(after), 's', 'ready')
  call('SET', PREFIX .. 'head:' .. key, after)
  call('ZADD', waiting(h), h.t, after)
  return true
end

-- What every end has in common. Whether another job became ready by it.
local function ends(h, to, now)
  drop(h)
  local headed = h.s ~= 'blocked' and h.o ~= '' and h.o:sub(1, 1) ~= '-'
  local gone = to ~= 'dead'
  if to == 'dead' and h.o:sub(1, 1) == '~' then
    h.o = '-' .. h.o
    call('HSET', job(h.id), 'o', h.o)
    gone = true
  end
  move(h, to)
  call('HSET', job(h.id), 's', to, 'f', now)
  if to ~= 'dead' then call('ZADD', PREFIX .. 'ended', now, h.id) end
  if h.u ~= '' and call('GET', PREFIX .. 'unique:' .. h.u) == h.id then call('DEL', PREFIX .. 'unique:' .. h.u) end
  return headed and gone and free(original(h.o))
end

local function beat(worker, info, lease)
  call('ZADD', PREFIX .. 'leases', lease, worker)
  call('HSET', PREFIX .. 'workers', worker, info)
end

local deeds = {}

-- rows of 8: id, queue, priority, due, unique key, order key, event, the row. The id under which each is kept. A row whose
-- id is there is left as it is.
function deeds.enqueue()
  local ids, queues, ready = {}, {}, false
  for at = 2, #ARGV, 8 do
    local id, q, p, t, u, o, g = unpack(ARGV, at, at + 6)
    local kept = id
    local known = call('EXISTS', job(id)) == 1
    if not known and u ~= '' then
      kept = call('GET', PREFIX .. 'unique:' .. u) or id
      if kept == id then call('SET', PREFIX .. 'unique:' .. u, id) end
    end
    if not known and kept == id then
      local s = 'ready'
      if o ~= '' then
        if call('EXISTS', PREFIX .. 'head:' .. o) == 1 then
          s = 'blocked'
          call('ZADD', PREFIX .. 'blocked:' .. o, 0, id)
        else
          call('SET', PREFIX .. 'head:' .. o, id)
        end
      end
      call('HSET', job(id), 'd', ARGV[at + 7], 'q', q, 'p', p, 's', s, 't', t, 'a', 0, 'v', 0, 'c', 0, 'z', 0, 'u', u,
        'o', o, 'g', g)
      call('ZADD', PREFIX .. 'in:' .. q .. ':' .. s, 0, id)
      if s == 'ready' then
        call('ZADD', PREFIX .. 'ready:' .. q .. ':' .. p, t, id)
        ready = true
      end
      if g ~= '' then call('ZADD', PREFIX .. 'event:' .. g, 0, id) end
      if not queues[q] then
        queues[q] = true
        call('SADD', PREFIX .. 'queues', q)
      end
    end
    ids[#ids + 1] = kept
  end
  if ready then wake() end
  return ids
end

local function suspects(now)
  local found = {}
  for at = 8, #ARGV do
    local due = call('ZRANGEBYSCORE', PREFIX .. 'suspects:' .. ARGV[at], '-inf', now, 'LIMIT', 0, BATCH)
    for _, id in ipairs(due) do found[#found + 1] = load(id) end
  end
  table.sort(found, function(x, y)
    if x.c ~= y.c then return x.c < y.c end
    if x.t ~= y.t then return tonumber(x.t) < tonumber(y.t) end
    return x.id < y.id
  end)
  return found
end

-- worker, its facts, end of its lease, now, limit, '1' for suspects alone, queues. First when the next one is due, then
-- for each job the row, attempts, deliveries, crashes, snoozes, due, order key.
function deeds.claim()
  local worker, info, lease, now, limit, alone = unpack(ARGV, 2, 7)
  limit = tonumber(limit)
  beat(worker, info, lease)
  local taken, found = {}, {''}
  local function take(id)
    local f = call('HMGET', job(id), 'd', 'a', 'v', 'c', 'z', 't', 'o', 'q')
    local a, v = f[2] + 1, f[3] + 1
    call('HSET', job(id), 's', 'running', 'w', worker, 'b', now, 'a', a, 'v', v)
    call('ZREM', PREFIX .. 'in:' .. f[8] .. ':ready', id)
    call('ZADD', PREFIX .. 'in:' .. f[8] .. ':running', 0, id)
    local n = #found
    found[n + 1], found[n + 2], found[n + 3], found[n + 4] = f[1], a, v, tonumber(f[4])
    found[n + 5], found[n + 6], found[n + 7] = tonumber(f[5]), f[6], f[7] or ''
    taken[#taken + 1] = id
  end
  if alone == '1' then
    for _, h in ipairs(suspects(now)) do
      if #taken >= limit then break end
      call('ZREM', waiting(h), h.id)
      take(h.id)
    end
  else
    for priority = 0, 9 do
      for at = 8, #ARGV do
        if #taken < limit then
          local key = PREFIX .. 'ready:' .. ARGV[at] .. ':' .. priority
          local ids = call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, limit - #taken)
          each(ids, BATCH, function(...) call('ZREM', key, ...) end)
          for _, id in ipairs(ids) do take(id) end
        end
      end
    end
  end
  if #taken > 0 then
    each(taken, BATCH, function(...) call('SADD', PREFIX .. 'held:' .. worker, ...) end)
    call('SADD', PREFIX .. 'holders', worker)
  end
  if alone ~= '1' and #taken < limit then
    local first
    for priority = 0, 9 do
      for at = 8, #ARGV do
        local due = call('ZRANGE', PREFIX .. 'ready:' .. ARGV[at] .. ':' .. priority, 0, 0, 'WITHSCORES')[2]
        if due and (not first or tonumber(due) < tonumber(first)) then first = due end
      end
    end
    found[1] = first or ''
  end
  return found
end

-- now, then of each completion 9: id, deliveries, state, due, attempts to give back, snoozes to add, reason, failure, the
-- failure in a line. First whether others became ready, then 1 for each that was still its holder's.
function deeds.finish()
  local now, freed, answer = ARGV[2], 0, {0}
  for at = 3, #ARGV, 9 do
    local id, held, to, due, refund, snoozed, reason, failure, line = unpack(ARGV, at, at + 8)
    local h = load(id)
    local ours = h and h.s == 'running' and h.v == tonumber(held)
    answer[#answer + 1] = ours and 1 or 0
    if ours then
      local news = {'a', h.a - refund, 'z', h.z + snoozed}
      if reason ~= '' then news[5], news[6] = 'r', reason end
      if line ~= '' then news[#news + 1], news[#news + 2] = 'e', line end
      if to == 'ready' then
        drop(h)
        if due ~= '' then h.t = due end
        move(h, 'ready')
        call('HSET', job(id), 's', 'ready', 't', h.t, 'w', '', unpack(news))
        if reason == '' then call('HDEL', job(id), 'r') end
        call('ZADD', waiting(h), h.t, id)
        if tonumber(h.t) <= tonumber(now) then freed = 1 end
      else
        call('HSET', job(id), unpack(news))
        if ends(h, to, now) then freed = 1 end
      end
      if failure ~= '' then
        call('LPUSH', PREFIX .. 'errors:' .. id, failure)
        call('LTRIM', PREFIX .. 'errors:' .. id, 0, ERRORS - 1)
      end
    end
  end
  if freed == 1 then wake() end
  answer[1] = freed
  return answer
end

-- worker, then the ids that it does hold. How many it did not.
function deeds.give_back()
  local worker, held, given = ARGV[2], {}, 0
  for at = 3, #ARGV do held[ARGV[at]] = true end
  for _, id in ipairs(call('SMEMBERS', PREFIX .. 'held:' .. worker)) do
    if not held[id] then
      local h = load(id)
      drop(h)
      move(h, 'ready')
      call('HSET', job(id), 's', 'ready', 'a', h.a - 1, 'w', '')
      call('ZADD', waiting(h), h.t, id)
      given = given + 1
    end
  end
  if given > 0 then wake() end
  return given
end

-- worker, its facts, end of its lease
function deeds.beat()
  beat(ARGV[2], ARGV[3], ARGV[4])
end

-- worker
function deeds.leave()
  call('ZREM', PREFIX .. 'leases', ARGV[2])
  call('HDEL', PREFIX .. 'workers', ARGV[2])
end

-- As claim. First '1' if suspects are due and '1' if others became ready, then id and state of each that was taken.
function deeds.rescue()
  local worker, info, lease, now = unpack(ARGV, 2, 5)
  beat(worker, info, lease)
  local answer, freed, left = {'0', '0'}, false, BATCH
  for _, holder in ipairs(call('SMEMBERS', PREFIX .. 'holders')) do
    local until_ = call('ZSCORE', PREFIX .. 'leases', holder)
    if left > 0 and (not until_ or tonumber(until_) <= tonumber(now)) then
      for _, id in ipairs(call('SRANDMEMBER', PREFIX .. 'held:' .. holder, left)) do
        local h = load(id)
        left = left - 1
        drop(h)
        h.c = h.c + 1
        call('HSET', job(id), 'c', h.c, 'a', h.a - 1, 'w', '', 'e', 'its worker died')
        if h.c >= CRASHES then
          call('HSET', job(id), 'r', 'crashed')
          freed = ends(h, 'dead', now) or freed
        else
          move(h, 'ready')
          call('HSET', job(id), 's', 'ready')
          call('ZADD', waiting(h), h.t, id)
        end
        answer[#answer + 1], answer[#answer + 2] = id, h.s
      end
    end
    if call('EXISTS', PREFIX .. 'held:' .. holder) == 0 then call('SREM', PREFIX .. 'holders', holder) end
  end
  for _, old in ipairs(call('ZRANGEBYSCORE', PREFIX .. 'leases', '-inf', tonumber(now) - SHOWN, 'LIMIT', 0, BATCH)) do
    call('ZREM', PREFIX .. 'leases', old)
    call('HDEL', PREFIX .. 'workers', old)
  end
  for at = 8, #ARGV do
    if call('ZRANGEBYSCORE', PREFIX .. 'suspects:' .. ARGV[at], '-inf', now, 'LIMIT', 0, 1)[1] then answer[1] = '1' end
  end
  if freed or #answer > 2 then
    answer[2] = '1'
    wake()
  end
  return answer
end

-- id, now. What came of it, and about whom.
function deeds.retry()
  local id, now = ARGV[2], ARGV[3]
  local h = load(id)
  if not h then return {'missing'} end
  if h.s == 'running' then return {'running'} end
  local unique = PREFIX .. 'unique:' .. h.u
  if h.u ~= '' and h.s ~= 'ready' then
    local holder = call('GET', unique)
    if holder then return {'unique', holder} end
  end
  drop(h)
  local key, to = original(h.o), 'ready'
  if key ~= '' then
    local head = call('GET', PREFIX .. 'head:' .. key)
    if head and head ~= id then to = 'blocked' else call('SET', PREFIX .. 'head:' .. key, id) end
  end
  h.o, h.c, h.t = key, 0, now
  move(h, to)
  call('HSET', job(id), 's', to, 't', now, 'a', 0, 'c', 0, 'z', 0, 'w', '', 'o', key)
  call('HDEL', job(id), 'r', 'f')
  if h.u ~= '' then call('SET', unique, id) end
  if to == 'ready' then
    call('ZADD', waiting(h), now, id)
    wake()
  else
    call('ZADD', PREFIX .. 'blocked:' .. key, 0, id)
  end
  return {'ok'}
end

-- id, now, reason, the states in which it may be. What came of it.
function deeds.call_off()
  local id, now, reason = ARGV[2], ARGV[3], ARGV[4]
  local h = load(id)
  if not h then return {'missing'} end
  for at = 5, #ARGV do
    if ARGV[at] == h.s then
      call('HSET', job(id), 'r', reason)
      if ends(h, 'cancelled', now) then wake() end
      return {'ok'}
    end
  end
  return {h.s}
end

-- the time before which they ended, how many. How many were deleted.
function deeds.prune()
  local ids = call('ZRANGEBYSCORE', PREFIX .. 'ended', '-inf', '(' .. ARGV[2], 'LIMIT', 0, ARGV[3])
  for _, id in ipairs(ids) do
    local f = call('HMGET', job(id), 'q', 's', 'g')
    call('ZREM', PREFIX .. 'in:' .. f[1] .. ':' .. f[2], id)
    if f[3] ~= '' then call('ZREM', PREFIX .. 'event:' .. f[3], id) end
    call('DEL', job(id), PREFIX .. 'errors:' .. id)
  end
  each(ids, BATCH, function(...) call('ZREM', PREFIX .. 'ended', ...) end)
  return #ids
end

-- Queue, state and number of all that are not 0.
function deeds.counts()
  local found = {}
  for _, q in ipairs(call('SMEMBERS', PREFIX .. 'queues')) do
    for _, s in ipairs(STATES) do
      local count = call('ZCARD', PREFIX .. 'in:' .. q .. ':' .. s)
      if count > 0 then
        local n = #found
        found[n + 1], found[n + 2], found[n + 3] = q, s, count
      end
    end
  end
  return found
end

-- state, queue, event, the id before which to begin, how many: ids, newest first.
function deeds.page()
  local state, queue, event, before, limit = unpack(ARGV, 2, 6)
  local keys, found = {}, {}
  if event ~= '' then
    keys[1] = PREFIX .. 'event:' .. event
  else
    for _, q in ipairs(queue ~= '' and {queue} or call('SMEMBERS', PREFIX .. 'queues')) do
      for _, s in ipairs(state ~= '' and {state} or STATES) do keys[#keys + 1] = PREFIX .. 'in:' .. q .. ':' .. s end
    end
  end
  local from = before ~= '' and '(' .. before or '+'
  for _, key in ipairs(keys) do
    for _, id in ipairs(call('ZREVRANGEBYLEX', key, from, '-', 'LIMIT', 0, limit)) do found[#found + 1] = id end
  end
  table.sort(found, function(x, y) return x > y end)
  return {unpack(found, 1, math.min(#found, tonumber(limit)))}
end

return deeds[ARGV[1]]()
