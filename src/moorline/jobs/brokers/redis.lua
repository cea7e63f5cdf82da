-- Jobs in Redis. Each deed is one run of this script, so that it happens whole or not at all.
--
-- KEYS[1] begins every key, and holds the hash tag that keeps them in one slot of a cluster. ARGV[1] is the deed, the rest
-- as its function says. Times are seconds since the epoch, as text; absent values are the empty text. What thousands a
-- second are told of comes in one MessagePack list: as arguments, each would be read by the server one by one. Bytes, of
-- which that list knows none, come in one argument after it, one behind the other, and in the list there is their number.
--
--   job:<id>                a hash: d (the row as it came) q (queue) p (priority) s (state) t (due), and what is not
--                           0 or empty of a (attempts) v (deliveries) c (crashes) z (snoozes) l (postponed in a row) w
--                           (worker) u (unique key) o (order key) g (event) b (started) f (finished) e (last error) r (reason);
--                           x says that there is one of c, z, l, u, o, r
--   errors:<id>             its last failures, newest first
--   ready:<queue>:<0 to 9>  ids by the time at which they are due;  suspects:<queue>  those whose worker died
--   all                     every id, in their own order;  in:<queue>:<state>  the same of the rarer states
--   counts                  how many there are, by queue and state
--   head:<order key>        the id of the head;  blocked:<order key>  the ids behind it
--   unique:<unique key>     the id of the job that has it while it waits or runs
--   window:<unique key>     an id and until when (a space between) it is the only one, whatever becomes of it; it expires
--                           LATE seconds after that, for what is relayed late, and for clocks that differ
--   event:<id>              ids of the jobs of an event
--   ended                   done and cancelled ids by the time of their end
--   leases, workers         when each worker's lease ends, and what it is;  held:<worker>, holders  what it runs
--   queues                  all names
--   note:<id>               what is told of a job: v (the deliveries of the claim) t (when) n (the part that is done) m
--                           (a message) y (a mark, then its result) s (why it is to stop) sv (which claim)

-- A job whose hash is not there (somebody deleted it by hand, or the server threw it away) is none: whoever meets its id
-- strikes it out, so that it is in nobody's way.

local PREFIX = KEYS[1]
local CRASHES, ERRORS, BATCH, SHOWN, LOOKED, LATE = 3, 10, 1000, 3600, 5000, 86400
local FIRST = 9 -- of the queues, in a worker's deeds
local RARE = {blocked = true, dead = true, cancelled = true}
local call = redis.call

local function job(id) return PREFIX .. 'job:' .. id end

local function each(list, size, act, from)
  for first = from or 1, #list, size do act(unpack(list, first, math.min(first + size - 1, #list))) end
end

local function wake() call('PUBLISH', PREFIX .. 'wake', '') end

local function waiting(h)
  if tonumber(h.c) > 0 then return PREFIX .. 'suspects:' .. h.q end
  return PREFIX .. 'ready:' .. h.q .. ':' .. h.p
end

local function load(id)
  local f = call('HMGET', job(id), 'q', 'p', 's', 't', 'a', 'v', 'c', 'z', 'w', 'u', 'o')
  if not f[1] then return nil end
  return {id = id, q = f[1], p = f[2], s = f[3], t = f[4], a = tonumber(f[5] or 0), v = tonumber(f[6] or 0),
    c = tonumber(f[7] or 0), z = tonumber(f[8] or 0), w = f[9] or '', u = f[10] or '', o = f[11] or ''}
end

-- Counted here, and written once at the end of the deed.
local counted = {}
local function count(queue, state, more)
  local lane = queue .. '\t' .. state
  counted[lane] = (counted[lane] or 0) + more
end

-- The job leaves the lists of its state and enters those of the other; the caller writes the hash.
local function move(h, to)
  if RARE[h.s] then call('ZREM', PREFIX .. 'in:' .. h.q .. ':' .. h.s, h.id) end
  if RARE[to] then call('ZADD', PREFIX .. 'in:' .. h.q .. ':' .. to, 0, h.id) end
  count(h.q, h.s, -1)
  count(h.q, to, 1)
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
  local after, h
  repeat
    after = call('ZRANGE', PREFIX .. 'blocked:' .. key, 0, 0)[1]
    if not after then call('DEL', PREFIX .. 'head:' .. key) return false end
    h = load(after)
    if not h then call('ZREM', PREFIX .. 'blocked:' .. key, after) end
  until h
  drop(h)
  move(h, 'ready')
  call('HSET', job(after), 's', 'ready')
  call('SET', PREFIX .. 'head:' .. key, after)
  call('ZADD', waiting(h), h.t, after)
  return true
end

-- The id of the head of that key, if there is one.
local function headed(key)
  local head = call('GET', PREFIX .. 'head:' .. key)
  if not head or call('EXISTS', job(head)) == 1 then return head end
  if not free(key) then return nil end
  wake()
  return call('GET', PREFIX .. 'head:' .. key)
end

-- What every end has in common. Whether another job became ready by it.
local function ends(h, to, now)
  drop(h)
  local head = h.s ~= 'blocked' and h.o ~= '' and h.o:sub(1, 1) ~= '-'
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
  return head and gone and free(original(h.o))
end

local function beat(worker, info, lease)
  call('ZADD', PREFIX .. 'leases', lease, worker)
  call('HSET', PREFIX .. 'workers', worker, info)
end

-- The id that the unique key belongs to at that time, if it is another one.
local function holder(key, now, but)
  local alive = call('GET', PREFIX .. 'unique:' .. key)
  if alive and call('EXISTS', job(alive)) == 1 then return alive end
  local first, till = (call('GET', PREFIX .. 'window:' .. key) or ''):match('^(%S+) (%S+)$')
  if first and first ~= but and tonumber(till) > tonumber(now) then return first end
end

-- One more than that, as text: the server writes a number of Lua's as a fraction of 17 digits, which takes longer than
-- all else that is done to a job.
local numbers = {}
local function counted_up(text)
  local before = text or '0'
  local after = numbers[before]
  if not after then
    after = string.format('%d', before + 1)
    numbers[before] = after
  end
  return after
end

local deeds = {}

-- A list, of each row 9: id, queue, priority, due, unique key, order key, event, when the key was asked for and until when
-- it is wanted (a space between), the row. For each that is kept under the id of another one, its place and that id. A row
-- whose id is there is left as it is.
function deeds.enqueue()
  local rows, taken, others, queues, everyone, ready, due = cmsgpack.unpack(ARGV[2]), 0, {}, {}, {}, false, {}
  -- Ids that the list of all has not are new; only if some are known, or may come to nothing, each is looked for.
  local new = 0
  for at = 1, #rows, 9 do
    if rows[at + 4] ~= '' then new = nil break end
    everyone[#everyone + 1] = 0
    everyone[#everyone + 1] = rows[at]
  end
  if new then
    each(everyone, BATCH, function(...) new = new + call('ZADD', PREFIX .. 'all', 'NX', ...) end)
    if new < #everyone / 2 then new = nil end
  end
  everyone = {}
  for at = 1, #rows, 9 do
    local id, q, p, t, u, o, g, wanted, size = unpack(rows, at, at + 8)
    local kept, row = id, ARGV[3]:sub(taken + 1, taken + size)
    taken = taken + size
    local known = not new and call('EXISTS', job(id)) == 1
    if not known and u ~= '' then
      local asked, till = wanted:match('^(%S+) (%S*)$')
      kept = holder(u, asked, id) or id
      if kept == id then
        call('SET', PREFIX .. 'unique:' .. u, id)
        if till ~= '' then
          call('SET', PREFIX .. 'window:' .. u, id .. ' ' .. till, 'EX', math.ceil(till - asked) + LATE)
        end
      end
    end
    if not known and kept == id then
      local s = 'ready'
      if o ~= '' then
        if headed(o) then
          s = 'blocked'
          call('ZADD', PREFIX .. 'blocked:' .. o, 0, id)
        else
          call('SET', PREFIX .. 'head:' .. o, id)
        end
      end
      call('HSET', job(id), 'd', row, 'q', q, 'p', p, 's', s, 't', t)
      if u ~= '' or o ~= '' then call('HSET', job(id), 'u', u, 'o', o, 'x', 1) end
      if g ~= '' then
        call('HSET', job(id), 'g', g)
        call('ZADD', PREFIX .. 'event:' .. g, 0, id)
      end
      if not new then
        everyone[#everyone + 1] = 0
        everyone[#everyone + 1] = id
      end
      count(q, s, 1)
      if s == 'ready' then
        local key = PREFIX .. 'ready:' .. q .. ':' .. p
        local lane = due[key]
        if not lane then
          lane = {}
          due[key] = lane
        end
        lane[#lane + 1] = t
        lane[#lane + 1] = id
        ready = true
      else
        call('ZADD', PREFIX .. 'in:' .. q .. ':' .. s, 0, id)
      end
      if not queues[q] then
        queues[q] = true
        call('SADD', PREFIX .. 'queues', q)
      end
    end
    if kept ~= id then
      others[#others + 1] = (at + 8) / 9
      others[#others + 1] = kept
    end
  end
  each(everyone, BATCH, function(...) call('ZADD', PREFIX .. 'all', ...) end)
  for key, lane in pairs(due) do
    each(lane, BATCH, function(...) call('ZADD', key, ...) end)
  end
  if ready then wake() end
  return others
end

-- The lanes of the worker's queues in which something is due, those to be emptied first before the others; and when the
-- first of what waits in the other ones is due. See jobs/ageing.py.
local function lanes(now, ageing)
  local found, later = {}, nil
  for priority = 0, 9 do
    for at = FIRST, #ARGV do
      local key = PREFIX .. 'ready:' .. ARGV[at] .. ':' .. priority
      local head = call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
      local due = head and tonumber(head)
      if due and due <= now then
        local rank = ageing > 0 and due + priority * ageing or priority
        found[#found + 1] = {key = key, queue = ARGV[at], rank = rank, due = due, place = #found}
      elseif due and (not later or due < tonumber(later)) then
        later = head
      end
    end
  end
  table.sort(found, function(x, y)
    if x.rank ~= y.rank then return x.rank < y.rank end
    if x.due ~= y.due then return x.due < y.due end
    return x.place < y.place
  end)
  return found, later
end

local function suspects(now)
  local found = {}
  for at = FIRST, #ARGV do
    local due = call('ZRANGEBYSCORE', PREFIX .. 'suspects:' .. ARGV[at], '-inf', now, 'LIMIT', 0, BATCH)
    for _, id in ipairs(due) do
      local h = load(id)
      if h then found[#found + 1] = h else call('ZREM', PREFIX .. 'suspects:' .. ARGV[at], id) end
    end
  end
  table.sort(found, function(x, y)
    if x.c ~= y.c then return x.c < y.c end
    if x.t ~= y.t then return tonumber(x.t) < tonumber(y.t) end
    return x.id < y.id
  end)
  return found
end

-- worker, its facts, end of its lease, now, limit, '1' for suspects alone, ageing, queues. First when the next one is due, then
-- for each job the row, attempts, deliveries, due, and crashes, snoozes, postponed and order key with tabs between, if it has any.
function deeds.claim()
  local worker, info, lease, now, limit, alone, ageing = unpack(ARGV, 2, 8)
  limit = tonumber(limit)
  beat(worker, info, lease)
  local taken, found = {}, {''}
  local function take(id)
    local key = job(id)
    local f = call('HMGET', key, 'd', 'a', 'v', 'x', 't')
    if not f[1] then return end
    local a, v, more = counted_up(f[2]), counted_up(f[3]), ''
    if f[4] then
      local rare = call('HMGET', key, 'c', 'z', 'l', 'o')
      more = (rare[1] or 0) .. '\t' .. (rare[2] or 0) .. '\t' .. (rare[3] or 0) .. '\t' .. (rare[4] or '')
    end
    call('HSET', key, 's', 'running', 'w', worker, 'b', now, 'a', a, 'v', v)
    local n = #found
    found[n + 1], found[n + 2], found[n + 3], found[n + 4], found[n + 5] = f[1], a, v, f[5], more
    taken[#taken + 1] = id
  end
  if alone == '1' then
    for _, h in ipairs(suspects(now)) do
      if #taken >= limit then break end
      call('ZREM', waiting(h), h.id)
      take(h.id)
      count(h.q, 'ready', -1)
      count(h.q, 'running', 1)
    end
  else
    local due, later = lanes(tonumber(now), tonumber(ageing))
    for _, lane in ipairs(due) do
      if #taken >= limit then break end
      local ids = call('ZRANGEBYSCORE', lane.key, '-inf', now, 'LIMIT', 0, limit - #taken)
      local from = #taken
      for n = 1, #ids do take(ids[n]) end
      count(lane.queue, 'ready', -#ids)
      count(lane.queue, 'running', #taken - from)
      call('ZREMRANGEBYRANK', lane.key, 0, #ids - 1) -- the first that are due are the first of all
    end
    if #taken < limit then
      for _, lane in ipairs(due) do
        local head = call('ZRANGE', lane.key, 0, 0, 'WITHSCORES')[2]
        if head and (not later or tonumber(head) < tonumber(later)) then later = head end
      end
      found[1] = later or ''
    end
  end
  if #taken > 0 then
    each(taken, BATCH, function(...) call('SADD', PREFIX .. 'held:' .. worker, ...) end)
    call('SADD', PREFIX .. 'holders', worker)
  end
  return found
end

-- One that ended in another way than well. Whether others became ready.
local function settle(h, to, due, refund, snoozed, postponed, reason, line, now)
  local key = job(h.id)
  if refund > 0 then call('HSET', key, 'a', h.a - refund) end
  if snoozed > 0 then call('HSET', key, 'z', h.z + snoozed, 'x', 1) end
  if postponed ~= '' then call('HSET', key, 'l', postponed, 'x', 1) end
  if line ~= '' then call('HSET', key, 'e', line) end
  if reason ~= '' then call('HSET', key, 'r', reason, 'x', 1) else call('HDEL', key, 'r') end
  if to ~= 'ready' then return ends(h, to, now) end
  drop(h)
  if due ~= '' then h.t = due end
  move(h, 'ready')
  call('HSET', key, 's', 'ready', 't', h.t, 'w', '')
  call('ZADD', waiting(h), h.t, h.id)
  return tonumber(h.t) <= tonumber(now)
end

-- now, a list: of each that ended well id and deliveries; another one, of each other 10: id, deliveries, state, due,
-- attempts to give back, snoozes to add, postponed (or empty), reason, failure, the failure in a line; the failures; whose
-- they may be. First whether others became ready, then id and deliveries of those that were not their holder's any more.
-- Deliveries alone do not tell: a server that has lost its last second counts those anew.
function deeds.finish()
  local now, well, others, taken = ARGV[2], cmsgpack.unpack(ARGV[3]), cmsgpack.unpack(ARGV[4]), 0
  local freed, answer, held, ended, done, mine = 0, {0}, {}, {}, {}, {}
  for at = 6, #ARGV do mine[ARGV[at]] = true end
  for at = 1, #well, 2 do
    local id, key = well[at], job(well[at])
    local f = call('HMGET', key, 's', 'v', 'w', 'q', 'x')
    local ours = f[1] == 'running' and tonumber(f[2]) == well[at + 1] and mine[f[3]]
    if not ours then
      answer[#answer + 1], answer[#answer + 2] = id, well[at + 1]
    elseif f[5] then
      if ends(load(id), 'done', now) then freed = 1 end
      call('HDEL', key, 'r')
    else
      -- As nearly all end; what they have in common is written for all at once.
      call('HSET', key, 's', 'done', 'f', now)
      local of = held[f[3]]
      if not of then
        of = {}
        held[f[3]] = of
      end
      of[#of + 1] = id
      ended[#ended + 1] = now
      ended[#ended + 1] = id
      done[f[4]] = (done[f[4]] or 0) + 1
    end
  end
  for queue, jobs in pairs(done) do
    count(queue, 'running', -jobs)
    count(queue, 'done', jobs)
  end
  for worker, ids in pairs(held) do
    each(ids, BATCH, function(...) call('SREM', PREFIX .. 'held:' .. worker, ...) end)
  end
  each(ended, BATCH, function(...) call('ZADD', PREFIX .. 'ended', ...) end)
  for at = 1, #others, 10 do
    local id, delivery, to, due, refund, snoozed, postponed, reason, size, line = unpack(others, at, at + 9)
    local h, failure = load(id), ARGV[5]:sub(taken + 1, taken + size)
    taken = taken + size
    if not (h and h.s == 'running' and h.v == delivery and mine[h.w]) then
      answer[#answer + 1], answer[#answer + 2] = id, delivery
    else
      if settle(h, to, due, refund, snoozed, postponed, reason, line, now) then freed = 1 end
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
    local h = not held[id] and load(id)
    if h then
      drop(h)
      move(h, 'ready')
      call('HSET', job(id), 's', 'ready', 'a', h.a - 1, 'w', '')
      call('ZADD', waiting(h), h.t, id)
      given = given + 1
    elseif not held[id] then
      call('SREM', PREFIX .. 'held:' .. worker, id)
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
        if not h then
          call('SREM', PREFIX .. 'held:' .. holder, id)
        else
          drop(h)
          h.c = h.c + 1
          call('HSET', job(id), 'c', h.c, 'a', h.a - 1, 'w', '', 'e', 'its worker died', 'x', 1)
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
    end
    if call('EXISTS', PREFIX .. 'held:' .. holder) == 0 then call('SREM', PREFIX .. 'holders', holder) end
  end
  for _, old in ipairs(call('ZRANGEBYSCORE', PREFIX .. 'leases', '-inf', tonumber(now) - SHOWN, 'LIMIT', 0, BATCH)) do
    call('ZREM', PREFIX .. 'leases', old)
    call('HDEL', PREFIX .. 'workers', old)
  end
  for at = FIRST, #ARGV do
    if call('ZRANGEBYSCORE', PREFIX .. 'suspects:' .. ARGV[at], '-inf', now, 'LIMIT', 0, 1)[1] then answer[1] = '1' end
  end
  if freed or #answer > 2 then
    answer[2] = '1'
    wake()
  end
  return answer
end

-- id, now, the row if it is another one from now on. What came of it, and about whom.
function deeds.retry()
  local id, now, row = ARGV[2], ARGV[3], ARGV[4]
  local h = load(id)
  if not h then return {'missing'} end
  if h.s == 'running' then return {'running'} end
  local unique = PREFIX .. 'unique:' .. h.u
  if h.u ~= '' and h.s ~= 'ready' then
    local other = holder(h.u, now, id)
    if other then return {'unique', other} end
  end
  drop(h)
  local key, to = original(h.o), 'ready'
  if key ~= '' then
    local head = headed(key)
    if head and head ~= id then to = 'blocked' else call('SET', PREFIX .. 'head:' .. key, id) end
  end
  h.o, h.c, h.t = key, 0, now
  move(h, to)
  call('HSET', job(id), 's', to, 't', now, 'a', 0, 'c', 0, 'z', 0, 'l', 0, 'w', '', 'o', key)
  call('HDEL', job(id), 'r', 'f')
  if row ~= '' then call('HSET', job(id), 'd', row) end
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
    if f[1] and RARE[f[2]] then call('ZREM', PREFIX .. 'in:' .. f[1] .. ':' .. f[2], id) end
    if f[3] then call('ZREM', PREFIX .. 'event:' .. f[3], id) end
    call('DEL', job(id), PREFIX .. 'errors:' .. id)
    if f[1] then count(f[1], f[2], -1) end
  end
  each(ids, BATCH, function(...) call('ZREM', PREFIX .. 'ended', ...) end)
  each(ids, BATCH, function(...) call('ZREM', PREFIX .. 'all', ...) end)
  return #ids
end

-- seconds to keep them, then of 6: id, deliveries, when, part, message, a mark and the result. Those of a claim before the
-- one that is known are left out.
function deeds.note()
  for at = 3, #ARGV, 6 do
    local id, v, t, n, m, y = unpack(ARGV, at, at + 5)
    local key = PREFIX .. 'note:' .. id
    local known = tonumber(call('HGET', key, 'v') or 0)
    if tonumber(v) >= known then
      if tonumber(v) > known then call('HDEL', key, 'y') end
      call('HSET', key, 'v', v, 't', t)
      if n ~= '' then call('HSET', key, 'n', n) end
      if m ~= '' then call('HSET', key, 'm', m) end
      if y ~= '' then call('HSET', key, 'y', y) end
      call('EXPIRE', key, ARGV[2])
    end
  end
end

-- seconds to keep it, id, deliveries of the claim, reason
function deeds.ask_to_stop()
  local key = PREFIX .. 'note:' .. ARGV[3]
  call('HSET', key, 's', ARGV[5], 'sv', ARGV[4])
  call('EXPIRE', key, ARGV[2])
end

-- Queue and state (a tab between), and number.
function deeds.counts()
  return call('HGETALL', PREFIX .. 'counts')
end

-- Ids of one state that few jobs are in at a time, or nothing when they are many after all.
local function few(state, queues)
  local found = {}
  local function add(ids) for _, id in ipairs(ids) do found[#found + 1] = id end end
  if state == 'running' then
    for _, holder in ipairs(call('SMEMBERS', PREFIX .. 'holders')) do add(call('SMEMBERS', PREFIX .. 'held:' .. holder)) end
    return found
  end
  for _, q in ipairs(queues) do
    add(call('ZRANGE', PREFIX .. 'suspects:' .. q, 0, LOOKED))
    for priority = 0, 9 do add(call('ZRANGE', PREFIX .. 'ready:' .. q .. ':' .. priority, 0, LOOKED)) end
    if #found > LOOKED then return nil end
  end
  return found
end

local function fitting(ids, state, queue, before, limit)
  local found = {}
  for _, id in ipairs(ids) do
    if #found >= limit then break end
    if before == '' or id < before then
      local f = call('HMGET', job(id), 's', 'q')
      if (state == '' or f[1] == state) and (queue == '' or f[2] == queue) then found[#found + 1] = id end
    end
  end
  return found
end

-- state, queue, event, the id before which to begin, how many. First the id before which to go on (empty: that was all),
-- then ids, newest first.
function deeds.page()
  local state, queue, event, before, limit = unpack(ARGV, 2, 6)
  limit = tonumber(limit)
  local queues = queue ~= '' and {queue} or call('SMEMBERS', PREFIX .. 'queues')
  local from = before ~= '' and '(' .. before or '+'
  local newest = function(x, y) return x > y end
  local found, more
  if state ~= '' and (state == 'running' or state == 'ready') then
    local ids = few(state, queues)
    if ids then
      table.sort(ids, newest)
      found = fitting(ids, state, queue, before, limit)
      more = #found >= limit and found[limit] or ''
    end
  elseif RARE[state] then
    found = {}
    for _, q in ipairs(queues) do
      local ids = call('ZREVRANGEBYLEX', PREFIX .. 'in:' .. q .. ':' .. state, from, '-', 'LIMIT', 0, limit)
      for _, id in ipairs(ids) do found[#found + 1] = id end
    end
    table.sort(found, newest)
    found = {unpack(found, 1, math.min(#found, limit))}
    more = #found >= limit and found[limit] or ''
  end
  if not found then
    local key = event ~= '' and PREFIX .. 'event:' .. event or PREFIX .. 'all'
    local look = (state == '' and queue == '') and limit or LOOKED
    local ids = call('ZREVRANGEBYLEX', key, from, '-', 'LIMIT', 0, look)
    found = fitting(ids, state, queue, '', limit)
    more = ''
    if #found >= limit then more = found[limit] elseif #ids >= look then more = ids[look] end
  end
  table.insert(found, 1, more)
  return found
end

local answer = deeds[ARGV[1]]()
for lane, more in pairs(counted) do
  if more ~= 0 then call('HINCRBY', PREFIX .. 'counts', lane, more) end
end
return answer
