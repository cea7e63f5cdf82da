// The peer of benchmarks/receive.py: Fastify checks the HMAC, Redis `SET NX` deduplicates, BullMQ takes the job.
// node receive.mjs REDIS_PORT SECRET; prints its port when it listens.
import { createHmac, timingSafeEqual } from "node:crypto";
import Fastify from "fastify";
import { Queue } from "bullmq";
import { Redis } from "ioredis";

const [redisPort, secret] = process.argv.slice(2);
const connection = { host: "127.0.0.1", port: Number(redisPort), maxRetriesPerRequest: null };
const redis = new Redis(connection);
const queue = new Queue("events", { connection, defaultJobOptions: { removeOnComplete: true, attempts: 6 } });
const app = Fastify({ bodyLimit: 25 * 1024 * 1024 });
app.addContentTypeParser("application/json", { parseAs: "buffer" }, (request, body, done) => done(null, body));

app.post("/webhooks/github", async (request, reply) => {
  const given = Buffer.from((request.headers["x-hub-signature-256"] ?? "").slice(7), "hex");
  const expected = createHmac("sha256", secret).update(request.body).digest();
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) {
    return reply.code(401).send({ error: "unauthorized" });
  }
  const id = request.headers["x-github-delivery"];
  if ((await redis.set(`seen:${id}`, 1, "EX", 2592000, "NX")) === null) {
    return { status: "duplicate" };
  }
  await queue.add(request.headers["x-github-event"], { id, body: request.body.toString("utf8") });
  return { status: "stored" };
});

await app.listen({ port: 0, host: "127.0.0.1" });
console.log(app.server.address().port);
