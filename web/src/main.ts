import { mount } from 'svelte'
import './app.css'
import App from './App.svelte'
import { speak } from './lib/i18n.svelte.ts'
import { place } from './lib/router.svelte.ts'
import { settings } from './lib/settings.svelte.ts'

document.documentElement.dataset.theme = settings.theme
await speak(settings.language)
place.listen()
mount(App, { target: document.getElementById('page')! })
