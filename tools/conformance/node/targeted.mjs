// Cases for CDN-Cache-Control (RFC 9213), in the form of http-cache-tests, which has none in its
// release: each asks twice, with three seconds between, and says where the second response is from.

const CC = 'Cache-Control'
const CDN = 'CDN-Cache-Control'

// A field with false after its value need not arrive at the client.
const said = value => [CDN, value, false]
const past = [['Expires', -10000], ['Date', 0]]
const future = [['Expires', 10000], ['Date', 0]]

function asked (kind, id, name, fields, expected) {
  return {
    name,
    id: `targeted-${id}`,
    kind,
    depends_on: id === 'max-age' ? ['freshness-none'] : ['targeted-max-age'],
    requests: [
      { response_headers: fields, setup: true, pause_after: true },
      { expected_type: expected }
    ]
  }
}

const reuses = (id, name, ...fields) => asked('optimal', id, name, fields, 'cached')
const asks = (id, name, ...fields) => asked('required', id, name, fields, 'not_cached')

export default {
  name: 'CDN-Cache-Control',
  id: 'targeted',
  tests: [
    reuses('max-age', 'A positive max-age is enough', said('max-age=3600')),
    reuses('s-maxage', 's-maxage comes before max-age', said('max-age=0, s-maxage=3600')),
    reuses('max-age-large', 'A max-age beyond 2^31 is a long one', said('max-age=99999999999')),
    asks('max-age-0', 'max-age=0 is not fresh', said('max-age=0')),
    asks('age', 'Age counts against max-age', ['Date', 0], said('max-age=3600'), ['Age', '7200']),
    reuses('long', 'A long one comes before a short Cache-Control',
      [CC, 'max-age=1'], said('max-age=3600')),
    asks('short', 'A short one comes before a long Cache-Control',
      [CC, 'max-age=3600'], said('max-age=1')),
    reuses('over-no-store', 'It comes before no-store in Cache-Control',
      [CC, 'no-store'], said('max-age=3600')),
    reuses('over-private', 'It comes before private in Cache-Control',
      [CC, 'private'], said('max-age=3600')),
    asks('no-store', 'no-store comes before a fresh Cache-Control',
      [CC, 'max-age=3600'], said('no-store'), ...future),
    asks('private', 'private comes before a fresh Cache-Control',
      [CC, 'max-age=3600'], said('private'), ...future),
    asks('no-cache', 'no-cache comes before a fresh Cache-Control',
      [CC, 'max-age=3600'], said('no-cache'), ...future),
    reuses('expires-past', 'It comes before an Expires in the past', said('max-age=3600'), ...past),
    reuses('expires-invalid', 'It comes before an Expires that is no date',
      said('max-age=3600'), ['Expires', '0', false]),
    asks('expires-future', 'max-age=0 comes before an Expires in the future',
      said('max-age=0'), ...future),
    asks('alone', 'What it does not say, Expires does not say either', said('foo'), ...future),
    reuses('unknown', 'An unknown directive does no harm', said('foo=bar, max-age=3600')),
    reuses('parameters', 'Parameters of a directive do no harm', said('max-age=3600;a=1')),
    reuses('lines', 'Several lines are one dictionary', said('foo'), said('max-age=3600')),
    asks('last', 'Of two with one name the last one counts', said('max-age=3600, max-age=0')),
    asks('malformed', 'What is no dictionary is ignored, and Cache-Control counts',
      [CC, 'no-store'], said('max-age=3600, &&&')),
    reuses('malformed-fresh', 'What is no dictionary is ignored, and Cache-Control counts',
      [CC, 'max-age=3600'], said('no-store, &&&')),
    asks('string', 'A max-age that is a string says nothing',
      [CC, 'no-store'], said('max-age="3600"')),
    reuses('empty', 'An empty one is none', [CC, 'max-age=3600'], said(''))
  ]
}
