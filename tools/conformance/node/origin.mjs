// The origin of http-cache-tests, on one port of the loopback interface.
//
// The package's own server listens on every address, writes a file into the folder that it is
// started from, and serves its files too; so only its handlers are used.
//
//   node origin.mjs PACKAGE PORT

import http from 'node:http'
import { load } from './package.mjs'

const handlers = new Map()
for (const name of ['config', 'state', 'test']) {
  const module = await load(`server/handle-${name}.mjs`)
  handlers.set(name, module.default)
}

function handle (request, response) {
  const segments = new URL(request.url, 'http://localhost').pathname.split('/').slice(1)
  const handler = handlers.get(segments.shift())
  if (handler === undefined) {
    response.writeHead(404).end()
  } else {
    handler(segments, request, response)
  }
}

http.createServer(handle).listen(Number(process.argv[3]), '127.0.0.1')
