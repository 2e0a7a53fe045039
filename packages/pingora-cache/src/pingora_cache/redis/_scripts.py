"""What Redis does in one step. All keys of a script share a hash tag, and so one cluster slot.

An object is a hash, its head: ``i`` number of the write (hex), ``s`` shape, ``m`` meta, ``c`` when
it was created, ``t`` tags with their generations, ``b`` the body if it is small, ``x`` when it was
made to expire. A large body is a hash of its own, by the number of the write, with the pieces by
their index: Redis evicts all of it or nothing. Writes that go on are in a third hash by their
number; one that is no longer in there when it is done has been purged meanwhile. The value is "" or
when it was made to expire.

A script that fills memory begins with what does so: Redis refuses that at the first write of a
script, or not at all.
"""

from __future__ import annotations

import hashlib
from typing import Final, final

__all__ = [
    "APPEND",
    "BEGIN",
    "CHUNK",
    "DISCARD",
    "DROP",
    "EXPIRE",
    "EXPIRE_TAG",
    "LOOKUP",
    "PUBLISH",
    "PURGE",
    "RENEW",
    "TOUCH_TAGS",
    "UPDATE",
    "Script",
]


@final
class Script:
    """A Lua script.

    Args:
        text: Its source.

    Attributes:
        sha: What Redis knows it by.
        text: Its source.
    """

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# Shared pieces. A value that somebody else has put there may be of any type: it makes way.
_HEAL: Final = """\
local function heal(key)
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', key) end
end
"""
_SHORTEN: Final = """\
local function shorten(key, lifetime)
  if redis.call('PTTL', key) > tonumber(lifetime) then redis.call('PEXPIRE', key, lifetime) end
end
"""
_LENGTHEN: Final = """\
local function lengthen(key, lifetime)
  local left = redis.call('PTTL', key)
  if left ~= -2 and left < tonumber(lifetime) then redis.call('PEXPIRE', key, lifetime) end
end
"""

# KEYS: head. ARGV: bodies.
# Answer: i, s, m, t, x, b, pieces that are there; empty if there is no object.
LOOKUP: Final = Script("""\
local head = redis.call('HMGET', KEYS[1], 'i', 's', 'm', 't', 'x', 'b')
if not head[1] then return {} end
head[7] = head[6] and 0 or redis.call('HLEN', ARGV[1] .. head[1])
return head
""")

# KEYS: body. ARGV: index, ms that it is there for at least, since it is being read.
# Answer: the piece, or nil.
CHUNK: Final = Script(
    _LENGTHEN
    + """\
local piece = redis.call('HGET', KEYS[1], ARGV[1])
if piece then lengthen(KEYS[1], ARGV[2]) end
return piece
"""
)

# KEYS: writers. ARGV: write, lifetime in ms.
BEGIN: Final = Script(
    _HEAL
    + _LENGTHEN
    + """\
heal(KEYS[1])
redis.call('HSET', KEYS[1], ARGV[1], '')
lengthen(KEYS[1], ARGV[2])
return 1
"""
)

# KEYS: writers, body. ARGV: write, lifetime in ms.
# Answer: whether the write is to go on.
RENEW: Final = Script(
    _LENGTHEN
    + """\
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
lengthen(KEYS[1], ARGV[2])
lengthen(KEYS[2], ARGV[2])
return 1
"""
)

# KEYS: writers, body. ARGV: write, lifetime in ms, index, piece.
# Answer: whether the write is to go on; if not, nothing is left of it.
APPEND: Final = Script(
    _LENGTHEN
    + """\
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  redis.call('UNLINK', KEYS[2])
  return 0
end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
lengthen(KEYS[1], ARGV[2])
return 1
"""
)

# KEYS: writers, body, head. ARGV: write, ms for readers. If the object has been published, which the
# writer has not heard of, it goes as if purged.
DROP: Final = Script(
    _HEAL
    + _SHORTEN
    + """\
redis.pcall('HDEL', KEYS[1], ARGV[1])
heal(KEYS[3])
if redis.call('HGET', KEYS[3], 'i') == ARGV[1] then
  redis.call('UNLINK', KEYS[3])
  shorten(KEYS[2], ARGV[2])
else
  redis.call('UNLINK', KEYS[2])
end
return 1
"""
)

# KEYS: head, writers, body. ARGV: write, pieces, lifetime in ms, ms for readers, bodies, then the
# fields of the head: s, m, c, t, b. Answer: 1 if it is published, 0 if it was purged, -1 if
# pieces are missing. A client whose connection is lost asks again what may have been done.
PUBLISH: Final = Script(
    _HEAL
    + _SHORTEN
    + """\
local marker = redis.call('HGET', KEYS[2], ARGV[1])
if not marker then
  heal(KEYS[1])
  if redis.call('HGET', KEYS[1], 'i') == ARGV[1] then return 1 end
  redis.call('UNLINK', KEYS[3])
  return 0
end
if redis.call('HLEN', KEYS[3]) ~= tonumber(ARGV[2]) then return -1 end
heal(KEYS[1])
local old = redis.call('HGET', KEYS[1], 'i')
redis.call('HSET', KEYS[1], 'i', ARGV[1], 's', ARGV[6], 'm', ARGV[7], 'c', ARGV[8],
  't', ARGV[9], 'b', ARGV[10], 'x', marker)
for i, field in ipairs({'t', 'b', 'x'}) do
  if redis.call('HSTRLEN', KEYS[1], field) == 0 then redis.call('HDEL', KEYS[1], field) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[3] + ARGV[4])
redis.call('HDEL', KEYS[2], ARGV[1])
if old and old ~= ARGV[1] then shorten(ARGV[5] .. old, ARGV[4]) end
return 1
"""
)

# KEYS: head. ARGV: write, when it was created, lifetime in ms, ms for readers, bodies,
# when it was made to expire as far as the caller knows, m, t. Answer: whether it was updated.
UPDATE: Final = Script("""\
local head = redis.call('HMGET', KEYS[1], 'i', 'c', 'x')
if not head[1] or head[1] ~= ARGV[1] then return 0 end
local created = tonumber(head[2] or '')
if not created or not (math.abs(created - tonumber(ARGV[2])) < 0.000001) then return 0 end
redis.call('HSET', KEYS[1], 'm', ARGV[7], 't', ARGV[8])
if ARGV[8] == '' then redis.call('HDEL', KEYS[1], 't') end
if head[3] and head[3] == ARGV[6] then redis.call('HDEL', KEYS[1], 'x') end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', ARGV[5] .. head[1], ARGV[3] + ARGV[4])
return 1
""")

# KEYS: head, writers. ARGV: whether writes are meant too, ms for readers, bodies.
# Answer: objects and writes that were there.
PURGE: Final = Script(
    _HEAL
    + _SHORTEN
    + """\
heal(KEYS[1])
local old = redis.call('HGET', KEYS[1], 'i')
local found = redis.call('UNLINK', KEYS[1])
if old then shorten(ARGV[3] .. old, ARGV[2]) end
if ARGV[1] == '1' then found = found + redis.call('UNLINK', KEYS[2]) end
return found
"""
)

# KEYS: head, writers. ARGV: whether writes are meant too, when, a number used once.
# Answer: objects and writes that were there. What has expired before has expired then.
EXPIRE: Final = Script(
    _HEAL
    + """\
local function expire(key, field)
  local before = redis.call('HGET', key, field)
  local when = before and string.match(before, '^[^:]+') or ARGV[2]
  redis.call('HSET', key, field, when .. ':' .. ARGV[3])
end
local found = 0
heal(KEYS[1])
if redis.call('EXISTS', KEYS[1]) == 1 then
  expire(KEYS[1], 'x')
  found = 1
end
if ARGV[1] == '1' then
  heal(KEYS[2])
  for i, write in ipairs(redis.call('HKEYS', KEYS[2])) do
    expire(KEYS[2], write)
    found = found + 1
  end
end
return found
"""
)

# KEYS: head. ARGV: bodies, and the write if it was found out; otherwise only a value that is no hash
# goes. What somebody has published meanwhile stays.
DISCARD: Final = Script(
    _HEAL
    + """\
heal(KEYS[1])
local old = redis.call('HGET', KEYS[1], 'i')
if old and old == ARGV[2] then redis.call('UNLINK', KEYS[1], ARGV[1] .. old) end
return 1
"""
)

# KEYS: tags. ARGV: lifetime in ms, a number used once.
# Answer: the generation of each, which is a new one if there was none.
TOUCH_TAGS: Final = Script("""\
local answer = {}
for i, key in ipairs(KEYS) do
  local generation = redis.call('TYPE', key).ok == 'string' and redis.call('GET', key)
  if not generation then
    generation = ARGV[2] .. ':'
    redis.call('SET', key, generation, 'PX', ARGV[1])
  elseif redis.call('PTTL', key) < tonumber(ARGV[1]) then
    redis.call('PEXPIRE', key, ARGV[1])
  end
  answer[i] = generation
end
return answer
""")

# KEYS: tag. ARGV: when, a number used once. Without a generation there is nothing to expire.
EXPIRE_TAG: Final = Script("""\
if redis.call('TYPE', KEYS[1]).ok ~= 'string' then return 0 end
local birth = string.match(redis.call('GET', KEYS[1]), '^[^:]*')
local left = redis.call('PTTL', KEYS[1])
redis.call('SET', KEYS[1], birth .. ':' .. ARGV[1] .. ':' .. ARGV[2], 'PX', math.max(left, 1))
return 1
""")
