// Finds the installed http-cache-tests, whose folder is the first argument.

import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const root = resolve(process.argv[2])

export const load = path => import(pathToFileURL(join(root, path)).href)
export const require = createRequire(join(root, 'package.json'))
