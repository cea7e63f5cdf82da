// The peer of benchmarks/jobs.py: BullMQ, no-op jobs, concurrency 50. node jobs.mjs REDIS_PORT COUNT; prints JSON.
import { Queue, Worker } from "bullmq";

const [port, count] = process.argv.slice(2).map(Number);
const connection = { host: "127.0.0.1", port, maxRetriesPerRequest: null };
const queue = new Queue("bench", { connection, defaultJobOptions: { removeOnComplete: true, attempts: 6 } });
await queue.waitUntilReady();
const submitters = 50;
const seconds = (began) => Number(process.hrtime.bigint() - began) / 1e9;

let began = process.hrtime.bigint();
await Promise.all(
  Array.from({ length: submitters }, async () => {
    for (let number = 0; number < count / submitters; number++) await queue.add("noop", { number });
  }),
);
const one_by_one = count / seconds(began);

began = process.hrtime.bigint();
for (let start = 0; start < count; start += 1000) {
  await queue.addBulk(Array.from({ length: 1000 }, (_, offset) => ({ name: "noop", data: { number: start + offset } })));
}
const bulk = count / seconds(began);

began = process.hrtime.bigint();
let left = 2 * count;
const drained = await new Promise((resolve) => {
  const worker = new Worker("bench", async () => { if (--left === 0) resolve(seconds(began)); }, { connection, concurrency: 50 });
  worker.on("error", console.error);
});
console.log(JSON.stringify({ one_by_one, bulk, drained: (2 * count) / drained }));
process.exit(0);
