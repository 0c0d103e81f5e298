// connect-session-sequelize, measured as benchmarks/worker.py measures:
// reads a count in a line, answers with a line of JSON.
//   node worker.js <postgres URL> <payload as JSON> <pool> <warm-up>
'use strict'

const readline = require('node:readline')
const express = require('express')
const session = require('express-session')
const inject = require('light-my-request')
const { Sequelize } = require('sequelize')
const SequelizeStore = require('connect-session-sequelize')(session.Store)

const [url, payload, pool, warmUp] = process.argv.slice(2)

function application (store) {
  const app = express()
  app.disable('x-powered-by')
  const sessions = session({
    store,
    secret: 'benchmark',
    resave: false,
    saveUninitialized: false
  })
  app.get('/none', (req, res) => res.send('none'))
  app.use(sessions)
  app.get('/look', (req, res) => res.send(String(req.session.user_id)))
  app.get('/read', (req, res) => res.send(String(req.session.user_id)))
  app.get('/value', (req, res) => res.send(String(req.session.n)))
  app.get('/change', (req, res) => {
    req.session.n += 1
    res.send('changed')
  })
  app.get('/create', (req, res) => {
    Object.assign(req.session, JSON.parse(payload))
    res.send('created')
  })
  return app
}

async function get (app, path, cookie) {
  const headers = { host: 'localhost', 'user-agent': 'benchmark' }
  if (cookie) headers.cookie = cookie
  const answer = await inject(app, { method: 'GET', url: path, headers })
  if (answer.statusCode !== 200) {
    throw new Error(`${path}: ${answer.statusCode} ${answer.payload}`)
  }
  return answer
}

async function create (app) {
  const answer = await get(app, '/create')
  return [answer.headers['set-cookie']].flat()[0].split(';')[0]
}

async function scenarios (app) {
  const cookies = []
  for (let i = 0; i < Number(pool); i++) cookies.push(await create(app))
  await get(app, '/change', cookies[0])
  const value = await get(app, '/value', cookies[0])
  if (value.payload !== '1') throw new Error(`stored ${value.payload}`)
  let turn = 0
  const next = () => cookies[turn++ % cookies.length]
  return {
    S0: () => get(app, '/none'),
    S1: () => get(app, '/look'),
    S2: () => get(app, '/read', next()),
    S3: () => get(app, '/change', next()),
    S4: () => create(app)
  }
}

function median (values) {
  values.sort((a, b) => a - b)
  const half = values.length >> 1
  if (values.length % 2) return values[half]
  return (values[half - 1] + values[half]) / 2
}

async function measure (call, count) {
  for (let i = 0; i < Number(warmUp); i++) await call()
  const times = []
  const before = process.cpuUsage()
  for (let i = 0; i < count; i++) {
    const start = process.hrtime.bigint()
    await call()
    times.push(Number(process.hrtime.bigint() - start) / 1000)
  }
  const cpu = process.cpuUsage(before)
  return [median(times), (cpu.user + cpu.system) / count]
}

async function main () {
  const sequelize = new Sequelize(url, { logging: false })
  const store = new SequelizeStore({
    db: sequelize,
    disableTouch: true,
    checkExpirationInterval: -1
  })
  await store.sync({ force: true })
  const calls = await scenarios(application(store))
  console.log('ready')
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const result = {}
    for (const [name, call] of Object.entries(calls)) {
      result[name] = await measure(call, Number(line))
    }
    console.log(JSON.stringify(result))
  }
  await sequelize.close()
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
