// A reporter for the lab (internal/lab/topic/browser): one JSON object a line, for each test that has ended and each step done.
import type { FullResult, Reporter, TestCase, TestError, TestResult, TestStep } from '@playwright/test/reporter'
import { basename } from 'node:path'

const plain = (text = '') => text.replaceAll(/\u001b\[[0-9;]*m/g, '')
const say = (event: Record<string, string | number>) => process.stdout.write(JSON.stringify(event) + '\n')

export default class Lines implements Reporter {
  printsToStdio = () => true

  onStepEnd(_test: TestCase, _result: TestResult, step: TestStep) {
    if (step.category === 'test.step' && !step.error) say({ step: step.title })
  }

  onTestEnd(test: TestCase, result: TestResult) {
    const error = result.errors.map((e) => plain(e.message) + (e.location ? ` (line ${e.location.line})` : '')).join('\n')
    say({ test: test.title, spec: basename(test.location.file, '.spec.ts'), status: result.status, seconds: result.duration / 1000, error })
  }

  onError(error: TestError) {
    say({ fault: plain(error.message ?? String(error.value)) })
  }

  onEnd(_result: FullResult) {}
}
