"""What Redis does in one step. All keys of a script share a hash tag, and so one cluster slot."""

from __future__ import annotations

from typing import Final

from pingora_limits.redis._link import Script

__all__ = ["COUNT", "HOLD", "LEAVE", "TAKE"]

# KEYS: counts of an epoch, counts of the one before.
# ARGV: machine, number of the batch, lifetime in ms, then field and amount in turn.
# A batch that comes twice, since its answer was lost, is counted once.
# Answer: seconds, microseconds, then the count in this epoch and in the one before for each field.
COUNT: Final = Script("""\
local is_new = tonumber(ARGV[2]) > tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
local answer = redis.call('TIME')
for i = 4, #ARGV, 2 do
  if is_new then
    answer[#answer + 1] = redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1])
  else
    answer[#answer + 1] = redis.call('HGET', KEYS[1], ARGV[i]) or 0
  end
  answer[#answer + 1] = redis.call('HGET', KEYS[2], ARGV[i]) or 0
end
if is_new and #ARGV > 3 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return answer
""")

# KEYS: machines by the end of their lease, what this machine holds, names of what others hold
# without the machine. ARGV: machine, lease in ms, then field and amount in turn.
# Answer: whether what this machine holds was still there, then what others hold for each field.
HOLD: Final = Script("""\
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], 2 * ARGV[2])
local answer = {redis.call('EXISTS', KEYS[2])}
redis.call('HSET', KEYS[2], '@', 1)
redis.call('PEXPIRE', KEYS[2], ARGV[2])
local machines = redis.call('ZRANGE', KEYS[1], 0, -1)
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '0' then
    redis.call('HDEL', KEYS[2], ARGV[i])
  else
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
  local sum = 0
  for _, machine in ipairs(machines) do
    if machine ~= ARGV[1] then
      sum = sum + (redis.call('HGET', KEYS[3] .. machine, ARGV[i]) or 0)
    end
  end
  answer[#answer + 1] = sum
end
return answer
""")

# KEYS: machines, what this machine holds. ARGV: machine.
LEAVE: Final = Script("""\
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
return {}
""")

# KEYS: buckets. ARGV: rate, burst, then the cost for each bucket.
# A bucket is its debt in tokens and the microsecond at which it was that.
# Answer: for each bucket whether the tokens were taken, and the debt.
TAKE: Final = Script("""\
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local answer = {}
for i, key in ipairs(KEYS) do
  local debt = 0
  local bucket = redis.call('GET', key)
  if bucket then
    local separator = string.find(bucket, ' ', 1, true)
    local since = math.max(0, now - tonumber(string.sub(bucket, separator + 1)))
    debt = math.max(0, tonumber(string.sub(bucket, 1, separator - 1)) - since / 1000000 * rate)
  end
  local after = debt + tonumber(ARGV[i + 2])
  if after <= burst + 0.000001 then
    local bucket = string.format('%.17g %.0f', after, now)
    redis.call('SET', key, bucket, 'PX', math.ceil(after / rate * 1000) + 1)
    answer[#answer + 1] = 1
    debt = after
  else
    answer[#answer + 1] = 0
  end
  answer[#answer + 1] = string.format('%.17g', debt)
end
return answer
""")
