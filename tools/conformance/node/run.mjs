// Runs the cases of http-cache-tests and those beside this file against a cache.
//
//   node run.mjs PACKAGE URL [ID...]
//
// Without IDs, all that are not for browsers only. Prints a JSON object: `version` of the package,
// and `cases`, a list of objects with `id`, `suite`, `kind`, `name`, and `result`: true, or a list
// of what kind of failure it was (`Setup`, `Assertion`, ...) and why.

import targeted from './targeted.mjs'
import { load, require } from './package.mjs'

const { runTests, getResults } = await load('client/runner.mjs')
const released = (await load('tests/index.mjs')).default
const [url, ...ids] = process.argv.slice(3)

const suites = [...released, targeted].map(suite => ({
  ...suite,
  tests: suite.tests.filter(test => ids.length === 0 || ids.includes(test.id))
}))

// All at once: a case is mostly a pause of three seconds.
await runTests(suites, require('node-fetch'), false, url, Infinity)

const results = getResults()
const cases = suites.flatMap(suite => suite.tests
  .filter(test => test.id in results)
  .map(test => ({
    id: test.id,
    suite: suite.id,
    kind: test.kind ?? 'required',
    name: test.name,
    result: results[test.id]
  })))
const { version } = require('./package.json')
console.log(JSON.stringify({ version, cases }))
